"""The one line that says what to believe, and rows of tables, on comparisons made by hand."""

from typing import Any

import pytest

from product_mil.compare.page.sentences import summary, verdict
from product_mil.compare.page.tables import (
    contestant_rows,
    pair_rows,
    table_by_num_images,
    terminal_table,
)


def difference(value: float, ci95: tuple[float, float], p: float, **more: Any) -> dict[str, Any]:
    return {
        "value": value,
        "ci95": list(ci95),
        "p": p,
        "holm_p": p,
        "mcnemar_p": p,
        "fixed": 90.0,
        "broke": 27.0,
        "products_needed": 9012,
        "by_num_images": {},
        **more,
    }


def run(accuracy: float, seeds: int = 3, **more: Any) -> dict[str, Any]:
    bounds = [accuracy - 0.02, accuracy + 0.02]
    return {"accuracy": accuracy, "accuracy_ci95": bounds, "seeds": seeds, "how": "mean", **more}


def comparison(headline: dict[str, Any], seeds: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "n": 1500,
        "headline": ["joint", "averaged"],
        "runs": {"joint": run(0.5 + headline["value"], seeds), "averaged": run(0.5, seeds)},
        "rules": {},
        "difference": {"joint_minus_averaged": headline},
        "control": None,
        "differing_fields": {},
        "like_for_like": False,
        "warnings": [],
        **more,
    }


def by_images(one: dict[str, Any]) -> dict[str, Any]:
    several = difference(0.06, (0.04, 0.08), 0.001)
    return {"by_several_images": {"one": {"n": 400, **one}, "several": {"n": 1100, **several}}}


CLEAR = (0.042, (0.029, 0.055), 0.0004)
NOTHING = difference(0.002, (-0.01, 0.014), 0.7)


@pytest.mark.parametrize(
    ("headline", "seeds", "more", "expected"),
    [
        (
            difference(*CLEAR),
            3,
            {},
            "joint is right more often than averaged by 4.2 points (95 %: 2.9 to 5.5, "
            "p <\u00a00.001; 3 seeds, 1,500 products).",
        ),
        (
            difference(*CLEAR, **by_images(NOTHING)),
            3,
            {},
            "joint is right more often than averaged by 4.2 points (95 %: 2.9 to 5.5, "
            "p <\u00a00.001; 3 seeds, 1,500 products); on the 400 products with one image no "
            "difference is seen.",
        ),
        (
            difference(-0.042, (-0.055, -0.029), 0.02, **by_images(difference(*CLEAR))),
            1,
            {"warnings": ["no test: joint was trained on 3 of these 1500 products"]},
            "averaged is right more often than joint by 4.2 points (95 %: 2.9 to 5.5, "
            "p = 0.020; 1 seed, 1,500 products); on the 400 products with one image joint is, "
            "by 4.2 (2.9 to 5.5); but this is no test: a run has seen some of these "
            "products.",
        ),
        (
            difference(0.01, (-0.005, 0.025), 0.19),
            1,
            {"differing_fields": {"seed": {}}},
            "No difference between joint and averaged can be told: joint is ahead by 1.0 points "
            "(95 %: \u22120.5 to 2.5, p = 0.190; 1 seed, 1,500 products); to confirm that takes "
            "about 9,012 products; the runs differ in more than the pooling.",
        ),
        (
            difference(-0.01, (-0.025, 0.005), 0.19),
            3,
            {},
            "No difference between joint and averaged can be told: averaged is ahead by 1.0 points "
            "(95 %: \u22120.5 to 2.5, p = 0.190; 3 seeds, 1,500 products); to confirm that takes "
            "about 9,012 products or more seeds.",
        ),
        (
            difference(0.0, (0.0, 0.0), 1.0, fixed=0.0, broke=0.0, products_needed=None),
            1,
            {},
            "joint and averaged are right on the very same products (1 seed, 1,500 products).",
        ),
        (
            difference(0.0, (-0.01, 0.01), 1.0, products_needed=None),
            1,
            {},
            "No difference between joint and averaged can be told: both are right as often "
            "(95 %: \u22121.0 to 1.0, p = 1; 1 seed, 1,500 products).",
        ),
        (
            difference(*CLEAR, **by_images(difference(*CLEAR))),
            3,
            {},
            "joint is right more often than averaged by 4.2 points (95 %: 2.9 to 5.5, "
            "p <\u00a00.001; 3 seeds, 1,500 products); on the 400 products with one image by 4.2 "
            "(2.9 to 5.5).",
        ),
        # The interval of one seed excludes 0, and its exact test does not.
        (
            difference(0.01, (0.001, 0.02), 0.06),
            1,
            {},
            "No difference between joint and averaged can be told: joint is ahead by 1.0 points "
            "(95 %: 0.1 to 2.0, p = 0.060; 1 seed, 1,500 products); to confirm that takes "
            "about 9,012 products.",
        ),
    ],
)
def test_verdict(headline: dict, seeds: int, more: dict, expected: str) -> None:
    assert verdict(comparison(headline, seeds, **more)) == expected


def test_the_summary_says_which_test() -> None:
    spread = {"values": [0.04, 0.044], "standard_deviation": 0.003, "mcnemar_p": [0.2, 0.0001]}
    said = summary(comparison(difference(*CLEAR, between_seeds=spread), 2))
    assert "(pooled test over products and seeds, p <\u00a00.001)" in said[1]
    assert "exact McNemar tests of each: p = 0.200, <\u00a00.001" in said[-1]
    said = summary(comparison(difference(*CLEAR), 1))
    assert "(exact McNemar test, p <\u00a00.001)" in said[1]


def with_rule(reference: str) -> dict[str, Any]:
    of = {"joint": 0.6, "averaged": 0.5, "averaged/vote": 0.55}
    pairs = {
        "averaged": [("averaged/vote", "averaged"), ("joint", "averaged/vote")],
        "averaged/vote": [("averaged", "averaged/vote"), ("joint", "averaged/vote")],
    }[reference]
    found = comparison(difference(*CLEAR))
    groups = {
        name: {"by_num_images": {count: {"n": 10, **run(value)} for count in "123456"}}
        for name, value in of.items()
    }
    differences = {
        f"{a}_minus_{b}": difference(
            of[a] - of[b],
            (of[a] - of[b] - 0.01, of[a] - of[b] + 0.02),
            0.01,
            fixed=70.0,
            broke=20.5,
            by_num_images={count: {"n": 10, **difference(*CLEAR)} for count in "123456"},
        )
        for a, b in [("joint", "averaged"), *pairs]
    }
    return found | {
        "headline": ["joint", reference],
        "runs": {name: run(of[name]) | groups[name] for name in ("joint", "averaged")},
        "rules": {
            "averaged/vote": run(0.55, rule_of="averaged") | groups["averaged/vote"],
        },
        "difference": differences,
    }


def test_pairs_with_the_better_first() -> None:
    found = pair_rows(with_rule("averaged/vote"))
    keys = ("better", "worse", "fixed", "broke")
    assert [tuple(row[key] for key in keys) for row in found] == [
        ("joint", "averaged/vote", 70, 20.5),
        ("joint", "averaged", 70, 20.5),
        ("averaged/vote", "averaged", 20.5, 70),  # told as averaged minus the rule
    ]
    assert [row["value"] for row in found] == pytest.approx([0.05, 0.1, 0.05])
    assert found[2]["ci95"] == pytest.approx([0.03, 0.06])


def test_a_rule_as_reference() -> None:
    """It stands first with its whole name, and its run after it."""
    rows = contestant_rows(with_rule("averaged/vote"))
    assert [row["name"] for row in rows] == ["averaged/vote", "averaged", "joint"]
    assert [row["difference"] and row["difference"]["value"] for row in rows] == [
        None, pytest.approx(-0.05), pytest.approx(0.05),
    ]  # fmt: skip
    rows = contestant_rows(with_rule("averaged"))
    assert [(row["name"], row["rule"]) for row in rows] == [
        ("averaged", None), ("vote", "averaged"), ("joint", None),
    ]  # fmt: skip


def test_tables_of_the_terminal() -> None:
    found = with_rule("averaged")
    for row in found["runs"].values():
        row["top5"] = 0.9
    lines = terminal_table(found).splitlines()
    assert len(lines) == 4
    assert "reference" in lines[1]
    assert "+5.00  [+4.00, +7.00]   0.010   70.0   20.5" in lines[2]
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
    found["difference"]["joint_minus_averaged"]["by_num_images"] = {}
    assert table_by_num_images(found) == ""
