"""Rows of tables, in the terminal and on the page, on comparisons made by hand."""

from dataclasses import replace

import pytest

from product_mil.compare.page.tables import (
    entry_rows,
    pair_rows,
    table_by_num_images,
    terminal_table,
)
from product_mil.compare.statistics.tests import Estimate
from tests.compare.reports import with_rule


def test_pairs_with_the_better_first() -> None:
    found = pair_rows(with_rule("averaged/vote").comparison)
    assert [(row.better, row.worse, row.change.fixed, row.change.broke) for row in found] == [
        ("joint", "averaged/vote", 70, 20.5),
        ("joint", "averaged", 70, 20.5),
        ("averaged/vote", "averaged", 20.5, 70),  # stored as averaged minus the rule
    ]
    assert [row.change.value for row in found] == pytest.approx([0.05, 0.1, 0.05])
    assert found[2].change.ci95 == pytest.approx((0.03, 0.06))


def test_a_rule_as_reference() -> None:
    """It stands first with its whole name, and its run after it."""
    rows = entry_rows(with_rule("averaged/vote"))
    assert [row.name for row in rows] == ["averaged/vote", "averaged", "joint"]
    assert [row.change and row.change.value for row in rows] == [
        None, pytest.approx(-0.05), pytest.approx(0.05),
    ]  # fmt: skip
    rows = entry_rows(with_rule("averaged"))
    assert [(row.name, row.is_indented) for row in rows] == [
        ("averaged", False), ("vote", True), ("joint", False),
    ]  # fmt: skip


def test_tables_of_the_terminal() -> None:
    found = with_rule("averaged")
    joint = found.comparison.of("joint")
    with_top5 = replace(joint, metrics={**joint.metrics, "top5": Estimate(0.9, 0.88, 0.92)})
    scores = (with_top5, *found.comparison.scores[1:])
    found = replace(found, comparison=replace(found.comparison, scores=scores))
    lines = terminal_table(found).splitlines()
    assert len(lines) == 4
    assert "reference" in lines[1]
    assert [line.split()[4] for line in lines[1:]] == ["-", "-", "0.9000"]
    assert "+5.00  [+4.00, +7.00]   0.010     70   20.5" in lines[2]
    assert lines[2].startswith("  vote")
    lines = table_by_num_images(found).splitlines()
    # Four numbers of images beside each other, then the other two.
    assert [line.split()[0] for line in lines] == [
        "top-1",
        "averaged",
        "vote",
        "joint",
        "joint",
    ] * 2
    assert lines[3].count("0.6000 [0.5800, 0.6200]") == 4
    assert lines[-1].count("+4.2 [+2.9, +5.5]") == 2
    unknown = replace(found.difference, groups={})
    comparison = replace(found.comparison, differences=(unknown,))
    assert table_by_num_images(replace(found, comparison=comparison)) == ""
