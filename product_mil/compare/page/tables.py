"""Rows of the tables, on the page and in the terminal."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from product_mil.compare.page.sentences import everyone
from product_mil.compare.page.words import p_text
from product_mil.text import table

MAX_LISTED_CATEGORIES = 40
_METRICS = ("top5", "nll", "calibrated_nll", "calibration_error", "calibrated_calibration_error")
_DIGITS = {"top5": 4, "nll": 3, "calibrated_nll": 3, "calibration_error": 3}  # in the terminal
_HEADS = (
    "", "top-1", "95 % interval", "top-5", "NLL", "NLL cal.", "ECE",
    "points", "95 % interval", "p", "fixed", "broke",
)  # fmt: skip
_POOLINGS = {
    "probabilities": "each image classified, probabilities averaged",
    "mean": "mean of the images' embeddings, then classified",
    "max": "elementwise maximum of the embeddings, then classified",
    "gated_attention": "attention over the images, then classified",
    "transformer": "images attend to each other, then classified",
    "residual": "geometric mean of the images, corrected jointly",
    "posterior_attention": "geometric mean of the images, corrected by attention over them",
}


def contestant_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a contestant, the reference and its run first, each with its difference from it."""
    _, b = comparison["headline"]
    of = everyone(comparison)
    own = of[b].get("rule_of", b)
    order = sorted(of, key=lambda name: (name != b, own not in (name, of[name].get("rule_of"))))
    return [_row(name, of[name], comparison["difference"], b) for name in order]


def _row(
    name: str, value: Mapping[str, Any], differences: Mapping[str, Any], reference: str
) -> dict[str, Any]:
    rule = value.get("rule_of")
    indented = rule is not None and name != reference
    return {
        **{metric: value.get(metric) for metric in _METRICS},
        "name": name.rpartition("/")[2].replace("_", " ") if indented else name,
        "rule": rule if indented else None,
        "how": _POOLINGS.get(value["how"], value["how"]),
        "accuracy": value["accuracy"],
        "ci95": value["accuracy_ci95"],
        "ci95_of": {metric: value.get(f"{metric}_ci95") for metric in _METRICS},
        "temperature": value.get("temperature"),
        "by_num_images": value.get("by_num_images", {}),
        "between_seeds": value.get("between_seeds", {})
        .get("accuracy", {})
        .get("standard_deviation"),
        "difference": differences.get(f"{name}_minus_{reference}"),
        "is_reference": name == reference,
    }


def pair_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pair, the better of the two first; the best contestants come first."""
    of = everyone(comparison)
    place = {name: number for number, name in enumerate(of)}
    rank = sorted(of, key=lambda name: (-of[name]["accuracy"], place[name]))
    rows = []
    for pair, difference in comparison["difference"].items():
        a, b = pair.split("_minus_")
        low, high = difference["ci95"]
        row = {**difference, "better": a, "worse": b}
        if rank.index(a) > rank.index(b):
            turned = {"value": 0 - difference["value"], "ci95": [0 - high, 0 - low]}
            counts = {"fixed": difference["broke"], "broke": difference["fixed"]}
            row |= {**turned, **counts, "better": b, "worse": a}
        rows.append(row)
    return sorted(rows, key=lambda row: (rank.index(row["better"]), rank.index(row["worse"])))


def category_rows(difference: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Level-1 categories by size, as many as can be read."""
    rows = [{"name": name, **group} for name, group in difference["by_level1"].items()]
    return sorted(rows, key=lambda row: -row["n"])[:MAX_LISTED_CATEGORIES]


def group_tables(comparison: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By number of images and by shared image: n, both accuracies, the difference."""
    a, b = comparison["headline"]
    difference = comparison["difference"][f"{a}_minus_{b}"]
    of = everyone(comparison)
    found = {}
    for name in ("by_num_images", "by_shared_image"):
        found[name] = [
            {
                "name": group.replace("_", " "),
                "a": of[a][name][group],
                "b": of[b][name][group],
                **values,
            }
            for group, values in difference.get(name, {}).items()
        ]
    return found


def terminal_table(comparison: Mapping[str, Any]) -> str:
    """The contestants against the reference, for the terminal."""
    lines: list[tuple[str, ...]] = [_HEADS]
    for row in contestant_rows(comparison):
        figures = [
            "-" if row[metric] is None else f"{row[metric]:.{digits}f}"
            for metric, digits in _DIGITS.items()
        ]
        accuracy = f"{row['accuracy']:.4f}", _interval(row["ci95"])
        lines.append((_name(row), *accuracy, *figures, *_difference_cells(row["difference"])))
    return "\n".join(table(lines, "<><>>>>><<>>"))


def table_by_num_images(comparison: Mapping[str, Any], *, groups_a_row: int = 4) -> str:
    """Accuracy of every contestant, and the headline's difference, by the number of images.

    For the terminal; empty where the numbers of images are not known.
    """
    a, b = comparison["headline"]
    rows = contestant_rows(comparison)
    difference = comparison["difference"][f"{a}_minus_{b}"]
    groups = difference.get("by_num_images", {})
    tables = []
    for first in range(0, len(groups), groups_a_row):
        some = dict(itertools.islice(groups.items(), first, first + groups_a_row))
        heads = [f"{group} ({found['n']} products)" for group, found in some.items()]
        lines = [("top-1 by images", *heads, "")]
        for row in rows:
            found = [row["by_num_images"][group] for group in some]
            cells = [f"{one['accuracy']:.4f} {_interval(one['accuracy_ci95'])}" for one in found]
            lines.append((_name(row), *cells, ""))
        gaps = [f"{100 * one['value']:+.1f} {_points(one['ci95'], 1)}" for one in some.values()]
        lines.append((f"{a} - {b}", *gaps, "points"))
        tables += table(lines, "<" * (len(some) + 2))
    return "\n".join(tables)


def _name(row: Mapping[str, Any]) -> str:
    return ("  " if row["rule"] else "") + row["name"]


def _interval(ci95: Sequence[float]) -> str:
    return f"[{ci95[0]:.4f}, {ci95[1]:.4f}]"


def _points(ci95: Sequence[float], digits: int) -> str:
    low, high = (f"{100 * bound:+.{digits}f}" for bound in ci95)
    return f"[{low}, {high}]"


def _difference_cells(difference: Mapping[str, Any] | None) -> tuple[str, ...]:
    if difference is None:
        return ("reference", "", "", "", "")
    return (
        f"{100 * difference['value']:+.2f}",
        _points(difference["ci95"], 2),
        p_text(difference["p"]).replace("\u00a0", ""),
        f"{difference['fixed']:.1f}",
        f"{difference['broke']:.1f}",
    )
