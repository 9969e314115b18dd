"""The comparison for people, as one HTML file that needs no network, and for programs as JSON."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from product_mil.compare.page.gallery import BROKE, FIXED
from product_mil.compare.page.sentences import everyone, summary
from product_mil.compare.page.tables import category_rows, contestant_rows, group_tables, pair_rows
from product_mil.compare.page.words import (
    count,
    number,
    p_text,
    percent,
    percents,
    points,
    with_sign,
)
from product_mil.files import whole
from product_mil.files.outputs import Kind, names_in

JSON_FILE = "comparison.json"


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
    directory = resources.files("product_mil.compare.page") / "template"
    style, script = ((directory / name).read_text("utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("product_mil.compare.page", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "percents": percents,
        "points": points,
        "number": number,
        "p": p_text,
        "with_sign": with_sign,
        "count": count,
    }
    a, b = comparison["headline"]
    return environment.get_template("page.html.j2").render(
        c=comparison,
        a=a,
        b=b,
        headline=comparison["difference"][f"{a}_minus_{b}"],
        sentences=summary(comparison),
        everyone=everyone(comparison),
        seeds=max(one["seeds"] for one in everyone(comparison).values()),
        rows=contestant_rows(comparison),
        pairs=pair_rows(comparison),
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
    return whole.to_json(comparison, allow_nan=False) + "\n"
