"""The comparison for people: one HTML file that needs no network, and a table for the terminal."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from product_mil import files
from product_mil.compare.gallery import BROKE, FIXED
from product_mil.files import Kind, names_in

JSON_FILE = "comparison.json"
MAX_LISTED_CATEGORIES = 40
NONE, MINUS = "\u2013", "\u2212"  # an en dash where nothing is known, a proper minus
_POOLINGS = {
    "probabilities": "each photo classified, probabilities averaged",
    "mean": "mean of the photos' embeddings, then classified",
    "max": "elementwise maximum of the embeddings, then classified",
    "gated_attention": "attention over the photos, then classified",
    "transformer": "photos attend to each other, then classified",
    "residual": "geometric mean of the photos, corrected jointly",
    "posterior_attention": "geometric mean of the photos, corrected by attention over them",
}


def page(
    comparison: Mapping[str, Any],
    *,
    plots: Sequence[Mapping[str, Any]],
    confusions: Sequence[Mapping[str, Any]],
    gallery: Mapping[str, Any],
) -> str:
    """The whole page. All texts from data are escaped, and a policy forbids every request.

    `plots` have `title`, `alt`, `light` and `dark` (data URIs), `width` and `height`.
    """
    directory = resources.files("product_mil.compare") / "page"
    style, script = ((directory / name).read_text("utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("product_mil.compare", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "number": number,
        "p": p_text,
        "count": count,
    }
    a, b = comparison["headline"]
    return environment.get_template("page.html.j2").render(
        c=comparison,
        a=a,
        b=b,
        headline=comparison["difference"][f"{a}_minus_{b}"],
        sentences=summary(comparison),
        rows=contestant_rows(comparison),
        categories=category_rows(comparison["difference"][f"{a}_minus_{b}"]),
        groups=group_tables(comparison),
        plots=plots,
        confusions=confusions,
        gallery=gallery,
        kinds=(FIXED, BROKE),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """As a content security policy names a text that is allowed."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def percent(value: float | int | None, digits: int = 1) -> str:
    """0.4712 as 47.1 %."""
    return NONE if value is None else f"{100 * value:.{digits}f}\u00a0%"


def points(value: float | int | None, digits: int = 1) -> str:
    """0.139 as +13.9: a difference of shares in percentage points."""
    if value is None:
        return NONE
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else "0" if value == 0 else text[1:]


def number(value: float | int | None, digits: int = 3) -> str:
    """A plain number with a proper minus."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def p_text(value: float) -> str:
    """A p-value as people write it."""
    return "<\u00a00.001" if value < 0.001 else f"{value:.3f}" if value < 0.995 else "1"


def count(value: float | int | None) -> str:
    """12345 as 12,345; a mean over seeds keeps a digit."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _span(ci95: Sequence[float]) -> str:
    return f"{points(ci95[0])} to {points(ci95[1])}"


def summary(comparison: Mapping[str, Any]) -> list[str]:
    """The result in sentences for somebody who decides."""
    a, b = comparison["headline"]
    run_a, run_b = comparison["runs"][a], comparison["runs"][b]
    difference = comparison["difference"][f"{a}_minus_{b}"]
    sentences = [
        f"Of every 100 products, {a} puts {100 * run_a['accuracy']:.0f} into the right category at "
        f"its first guess and {b} {100 * run_b['accuracy']:.0f}: a difference of "
        f"{points(difference['value'])} points (95 % interval {_span(difference['ci95'])}).",
        _verdict(a, b, difference, comparison["n"]),
    ]
    several = _several(difference)
    if several:
        sentences.append(several)
    if comparison["control"] is not None:
        sentences.append(_control_sentence(a, b, comparison["control"]))
    rules = _rules_sentence(comparison)
    if rules:
        sentences.append(rules)
    if difference.get("between_seeds"):
        spread = difference["between_seeds"]
        values = ", ".join(points(value) for value in spread["values"])
        sentences.append(
            f"Trained {len(spread['values'])} times from different seeds, the difference was "
            f"{values} points (standard deviation {100 * spread['standard_deviation']:.1f})."
        )
    return sentences


def _verdict(a: str, b: str, difference: Mapping[str, Any], n: int) -> str:
    fixed, broke = difference["fixed"], difference["broke"]
    low, high = difference["ci95"]
    whole = float(fixed).is_integer() and float(broke).is_integer()
    on_average = "" if whole else "on average "
    changes = (
        f"{on_average}{a} alone is right on {count(fixed)} of the {count(n)} products, "
        f"{b} alone on {count(broke)}"
    )
    p = f"exact McNemar test, p {_with_sign(difference['mcnemar_p'])}"
    if fixed == broke == 0:
        return f"Each product is right in both or wrong in both: the difference is exactly 0 ({p})."
    changes = changes[0].upper() + changes[1:] if on_average else changes
    if difference["mcnemar_p"] < 0.05 and (low > 0 or high < 0):
        better = a if difference["value"] > 0 else b
        return f"{changes}. Chance does not explain this: {better} is better here ({p})."
    need = difference["products_needed"]
    tail = (
        f" To confirm a difference of this size takes about {count(need)} products." if need else ""
    )
    return f"{changes}. Chance alone can explain this: neither is shown to be better ({p}).{tail}"


def _with_sign(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _several(difference: Mapping[str, Any]) -> str:
    """What products with more than one photo contribute."""
    groups = difference.get("by_num_images", {})
    several = [group for name, group in groups.items() if name not in ("0", "1")]
    n = sum(group["n"] for group in several)
    if not n or "1" not in groups:
        return ""
    value = sum(group["value"] * group["n"] for group in several) / n
    return (
        f"On the {count(n)} products with several photos the difference is {points(value)} points."
    )


def _control_sentence(a: str, b: str, control: Mapping[str, Any]) -> str:
    """With a single photo there is nothing to fuse: do the two then agree?"""
    same = f"the same first guess on {percent(control['same_guess'], 0)} of {count(control['n'])}"
    figures = f"{points(control['value'])} points, 95 % interval {_span(control['ci95'])}"
    start = "Control: with a single photo there is nothing to fuse"
    if not control["treats_alike"]:
        text = (
            f"With a single photo there is nothing to fuse, and yet {a} answers it in its own way "
            f"({same}). So these products are no control; the difference there ({figures}) is "
            f"a result of how {a} was trained"
        )
        low, high = control["ci95"]
        return text + (", not shown to be other than 0." if low <= 0 <= high else ".")
    if control["holds"]:
        return f"{start}, and there the two agree as they should ({same}; {figures})."
    return (
        f"{start}, and yet there the two differ ({figures}), although they mostly guess alike "
        f"({same}). Look for something besides the pooling that differs between these runs."
    )


def _rules_sentence(comparison: Mapping[str, Any]) -> str:
    a, b = comparison["headline"]
    rules = {k: v for k, v in comparison["rules"].items() if v["rule_of"] == b}
    difference = comparison["difference"][f"{a}_minus_{b}"]["value"]
    if not rules:
        return ""
    best = max(rules, key=lambda name: rules[name]["accuracy"])
    gain = comparison["difference"][f"{best}_minus_{b}"]
    label = best.rpartition("/")[2].replace("_", " ")
    rest = comparison["difference"][f"{a}_minus_{best}"]
    text = (
        f"The best other rule on {b}'s own probabilities, {label}, changes {points(gain['value'])} "
        "points without any training"
    )
    if difference > 0:
        text += f"; {a} is {points(rest['value'])} points ({_span(rest['ci95'])}) above that rule"
    return text + "."


def contestant_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a contestant, the reference first, each with its difference from it."""
    _, b = comparison["headline"]
    rows = []
    everyone = {**comparison["runs"], **comparison["rules"]}
    order = sorted(everyone, key=lambda name: (name != b, everyone[name].get("rule_of") != b))
    for name in order:
        value = everyone[name]
        difference = comparison["difference"].get(f"{name}_minus_{b}")
        turned = comparison["difference"].get(f"{b}_minus_{name}")
        if difference is None and turned is not None:
            low, high = turned["ci95"]
            difference = {**turned, "value": -turned["value"], "ci95": [-high, -low]}
        rows.append(
            {
                **{metric: value.get(metric) for metric in ("top5", "nll", "calibrated_nll")},
                **{
                    metric: value.get(metric)
                    for metric in ("calibration_error", "calibrated_calibration_error")
                },
                "name": name.rpartition("/")[2].replace("_", " ") if value.get("rule_of") else name,
                "rule": value.get("rule_of"),
                "how": _POOLINGS.get(value["how"], value["how"]),
                "accuracy": value["accuracy"],
                "ci95": value["accuracy_ci95"],
                "ci95_of": {k: value.get(f"{k}_ci95") for k in ("top5", "nll", "calibrated_nll")}
                | {
                    k: value.get(f"{k}_ci95")
                    for k in ("calibration_error", "calibrated_calibration_error")
                },
                "temperature": value.get("temperature"),
                "between_seeds": value.get("between_seeds", {})
                .get("accuracy", {})
                .get("standard_deviation"),
                "difference": difference,
                "is_reference": name == b,
            }
        )
    return rows


def category_rows(difference: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Level-1 categories by size, as many as can be read."""
    rows = [{"name": name, **group} for name, group in difference["by_level1"].items()]
    return sorted(rows, key=lambda row: -row["n"])[:MAX_LISTED_CATEGORIES]


def group_tables(comparison: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By number of images and by shared image: n, both accuracies, the difference."""
    a, b = comparison["headline"]
    difference = comparison["difference"][f"{a}_minus_{b}"]
    found = {}
    for name in ("by_num_images", "by_shared_image"):
        found[name] = [
            {
                "name": group.replace("_", " "),
                "a": comparison["runs"][a][name][group],
                "b": comparison["runs"][b][name][group],
                **values,
            }
            for group, values in difference.get(name, {}).items()
        ]
    return found


def table(comparison: Mapping[str, Any]) -> str:
    """The contestants, for the terminal."""
    rows = contestant_rows(comparison)
    width = max(len(row["name"]) for row in rows) + 2
    lines = [
        f"{'':{width}}  top-1  95 % interval      top-5     NLL  NLL cal.  ECE    "
        "difference  95 % interval      McNemar p"
    ]
    for row in rows:
        name = ("  " if row["rule"] else "") + row["name"]
        low, high = row["ci95"]
        cells = [f"{name:{width}}  {row['accuracy']:.4f} [{low:.4f}, {high:.4f}]"]
        for metric, digits in (("top5", 4), ("nll", 3), ("calibrated_nll", 3)):
            value = row[metric]
            cells.append(f"{'-' if value is None else format(value, f'.{digits}f'):>7}")
        ece = row["calibration_error"]
        cells.append(f"{'-' if ece is None else format(ece, '.3f'):>6}")
        if row["difference"]:
            low, high = row["difference"]["ci95"]
            cells.append(
                f"   {row['difference']['value']:+.4f} [{low:+.4f}, {high:+.4f}]  "
                f"{row['difference']['mcnemar_p']:.3g}"
            )
        lines.append(" ".join(cells))
    return "\n".join(lines)


def _is_comparison(directory: Path) -> bool:
    """Whether the directory holds a comparison, or only the runs of one that was interrupted."""
    file = directory / JSON_FILE
    if file.exists():
        said = json.loads(file.read_bytes())
        return isinstance(said, dict) and {"headline", "runs", "version"} <= said.keys()
    return names_in(directory) == {"runs"}


COMPARISON = Kind("a comparison", (), _is_comparison)


def to_json(comparison: Mapping[str, Any]) -> str:
    """`comparison.json`: plain numbers, no NaN."""
    return files.to_json(comparison, allow_nan=False) + "\n"
