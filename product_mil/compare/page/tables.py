"""Rows of the tables, on the page and in the terminal."""

from collections.abc import Mapping
from typing import Any

from product_mil.compare.page.sentences import everyone
from product_mil.compare.page.words import p_text

MAX_LISTED_CATEGORIES = 40
_METRICS = ("top5", "nll", "calibrated_nll", "calibration_error", "calibrated_calibration_error")
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


def table(comparison: Mapping[str, Any]) -> str:
    """The contestants against the reference, for the terminal."""
    rows = contestant_rows(comparison)
    width = max(len(row["name"]) for row in rows) + 2
    lines = [
        f"{'':{width}}   top-1  95 % interval      top-5     NLL NLL cal.    ECE  "
        "points  95 % interval      p        fixed  broke"
    ]
    for row in rows:
        low, high = row["ci95"]
        cells = [f"{_name(row):{width}}  {row['accuracy']:.4f} [{low:.4f}, {high:.4f}]"]
        for metric, digits in (("top5", 4), ("nll", 3), ("calibrated_nll", 3)):
            value = row[metric]
            cells.append(f"{'-' if value is None else format(value, f'.{digits}f'):>7}")
        ece = row["calibration_error"]
        cells.append(f"{'-' if ece is None else format(ece, '.3f'):>6}")
        cells.append(_points_cell(row["difference"]) if row["difference"] else " reference")
        lines.append(" ".join(cells))
    return "\n".join(lines)


def table_by_num_images(comparison: Mapping[str, Any], *, groups_a_row: int = 4) -> str:
    """Accuracy of every contestant, and the headline's difference, by the number of images.

    For the terminal; empty where the numbers of images are not known.
    """
    a, b = comparison["headline"]
    rows = contestant_rows(comparison)
    difference = comparison["difference"][f"{a}_minus_{b}"]
    groups = list(difference.get("by_num_images", {}))
    last = f"{a} - {b}"
    width = max(len(last), *(len(row["name"]) + 2 for row in rows))
    lines = []
    for first in range(0, len(groups), groups_a_row):
        some = groups[first : first + groups_a_row]
        heads = [f"{group} ({difference['by_num_images'][group]['n']} products)" for group in some]
        title = "top-1 by images"
        lines.append("  ".join([f"{title:{width}}", *(f"{head:<24}" for head in heads)]))
        for row in rows:
            cells = [f"{_name(row):{width}}"]
            for group in some:
                found = row["by_num_images"][group]
                low, high = found["accuracy_ci95"]
                cells.append(f"{found['accuracy']:.4f} [{low:.4f}, {high:.4f}]")
            lines.append("  ".join(cells))
        cells = [f"{last:{width}}"]
        for group in some:
            found = difference["by_num_images"][group]
            value, low, high = (100 * x for x in (found["value"], *found["ci95"]))
            cells.append(f"{f'{value:+.1f} [{low:+.1f}, {high:+.1f}]':<24}")
        lines.append("  ".join(cells) + "points")
    return "\n".join(line.rstrip() for line in lines)


def _name(row: Mapping[str, Any]) -> str:
    return ("  " if row["rule"] else "") + row["name"]


def _points_cell(difference: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in difference["ci95"])
    p = p_text(difference["p"]).replace("\u00a0", "")
    return (
        f" {100 * difference['value']:+6.2f} {f'[{low:+.2f}, {high:+.2f}]':<18} {p:<7} "
        f"{difference['fixed']:6.1f} {difference['broke']:6.1f}"
    )
