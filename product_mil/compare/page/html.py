"""The comparison for people, as one HTML file that needs no network."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from product_mil.compare.page.figures import Confusion, Plot
from product_mil.compare.page.gallery import BROKE, FIXED
from product_mil.compare.page.sentences import summary, verdict
from product_mil.compare.page.tables import category_rows, entry_rows, group_tables, pair_rows
from product_mil.compare.page.words import (
    about,
    count,
    number,
    p_text,
    percent,
    percents,
    points,
    with_sign,
)
from product_mil.compare.report import Report


def page(
    report: Report,
    *,
    plots: Sequence[Plot],
    confusions: Sequence[Confusion],
    gallery: Mapping[str, Any],
) -> str:
    """The text of the page. All data are escaped, and its policy forbids every request."""
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
        "about": about,
    }
    a, b = report.headline
    comparison = report.comparison
    return environment.get_template("page.html.j2").render(
        report=report,
        n=comparison.n,
        a=a,
        b=b,
        headline=report.difference,
        change=report.difference.change,
        verdict=verdict(report),
        sentences=summary(report),
        everyone={scores.name: scores for scores in comparison.scores},
        seeds=max(scores.seeds for scores in comparison.scores),
        rows=entry_rows(report),
        pairs=pair_rows(comparison),
        categories=category_rows(report.difference),
        groups=group_tables(report),
        has_unchanged=_has_unchanged(report),
        plots=plots,
        confusions=confusions,
        gallery=gallery,
        kinds=(FIXED, BROKE),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _has_unchanged(report: Report) -> bool:
    """Whether any interval of a difference on the page is from 0 to 0."""
    changes = [one.change for one in report.comparison.differences]
    changes += [change for group in report.difference.groups.values() for change in group.values()]
    return any(change.ci95 == (0, 0) for change in changes)


def _hash(text: str) -> str:
    """The hash by which a content security policy allows a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
