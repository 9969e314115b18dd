"""What the page says, read as text, on comparisons made by hand."""

import re
from dataclasses import replace

import pytest

from product_mil.compare.page.figures import Plot
from product_mil.compare.page.html import page
from product_mil.compare.report import Report
from product_mil.compare.statistics.results import Change, Scores
from product_mil.compare.statistics.tests import Estimate
from tests.compare.reports import CLEAR, change, with_rule


def text_of(report: Report) -> str:
    """The words of the page, without markup; one line ends with each row of a table."""
    plot = Plot("reliability", "a plot", "a plot", "data:,", "data:,", width=1, height=1)
    html = page(report, plots=[plot], confusions=[], gallery={"cards": []})
    rows = html.replace("\n", " ").split("</tr>")
    return "\n".join(re.sub(r"<[^>]*>", " ", row) for row in rows)


def made(by_level1: dict[str, Change] | None = None) -> Report:
    found = with_rule("averaged")
    differences = tuple(
        replace(one, groups={**one.groups, "by_level1": by_level1 or {}})
        for one in found.comparison.differences
    )
    return replace(found, comparison=replace(found.comparison, differences=differences))


def calibrated(scores: Scores, nll: float, after: float) -> Scores:
    more = {"nll": nll, "calibrated_nll": after}
    estimates = {name: Estimate(x, x - 0.001, x + 0.001) for name, x in more.items()}
    return replace(scores, temperature=1.31, metrics={**scores.metrics, **estimates})


@pytest.mark.parametrize(
    ("joint", "averaged", "marked"),
    [(0.009, 0.65, ["joint"]), (0.005, 0.65, []), (0.009, 0.75, ["averaged", "joint"])],
)
def test_where_the_temperature_hurts(joint: float, averaged: float, marked: list[str]) -> None:
    """The row says so, and a sentence below says why; the vote has no likelihood."""
    report = made()
    a, b, vote = report.comparison.scores
    scores = (calibrated(a, 0.006, joint), calibrated(b, 0.7, averaged), vote)
    report = replace(report, comparison=replace(report.comparison, scores=scores))
    text = text_of(report)
    rows = [line.split()[0] for line in text.splitlines() if "1.31 makes NLL worse" in line]
    assert rows == marked
    why = "Where it makes NLL worse, the run finds these products easier (temperature above 1)"
    assert (why in text) == bool(marked)
    assert report.temperature_hurts == (len(marked) == 2)


def test_an_interval_from_0_to_0_is_explained_where_there_is_one() -> None:
    note = "An interval from 0 to 0 means"
    nothing = change(0.0, (0.0, 0.0), 1.0)
    assert note not in text_of(made({"food": change(*CLEAR)}))
    assert note in text_of(made({"food": nothing}))
    report = made()
    first, *others = report.comparison.differences
    differences = (first, replace(others[0], change=nothing), *others[1:])
    report = replace(report, comparison=replace(report.comparison, differences=differences))
    assert note in text_of(report)


def test_products_needed_are_about_so_many() -> None:
    """9,012 in comparison.json."""
    assert "with 80 % power takes about 9,000 products; here are 1,500." in text_of(made())
