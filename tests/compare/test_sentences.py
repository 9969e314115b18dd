"""The one line that says what to believe, and rows of tables, on comparisons made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from product_mil.compare.page.sentences import summary, verdict
from product_mil.compare.page.tables import (
    entry_rows,
    pair_rows,
    table_by_num_images,
    terminal_table,
)
from product_mil.compare.report import GalleryNote, Report
from product_mil.compare.statistics.results import (
    Change,
    Comparison,
    Control,
    Difference,
    GroupAccuracy,
    Scores,
    Spread,
)
from product_mil.compare.statistics.tests import Estimate


def change(value: float, ci95: tuple[float, float], p: float, **more: Any) -> Change:
    made = Change(1500, Estimate(value, *ci95), p, mcnemar_p=p, fixed=90.0, broke=27.0, holm_p=p)
    return replace(made, **more)


def difference(
    value: float, ci95: tuple[float, float], p: float, *, fixed: float = 90.0, broke: float = 27.0,
    **more: Any,
) -> Difference:  # fmt: skip
    made = Difference(
        "joint",
        "averaged",
        change(value, ci95, p, fixed=fixed, broke=broke),
        metrics={},
        products_needed=9012,
        between_seeds=None,
        mcnemar_p_of_seeds=(p,),
        groups={},
    )
    return replace(made, **more)


def run(name: str, accuracy: float, seeds: int = 3, **more: Any) -> Scores:
    estimate = Estimate(accuracy, accuracy - 0.02, accuracy + 0.02)
    made = Scores(
        name,
        how="mean",
        rule_of=None,
        seeds=seeds,
        metrics={"accuracy": estimate},
        temperature=None,
        groups={},
        between_seeds={},
        reliability={},
    )
    return replace(made, **more)


def report(headline: Difference, seeds: int = 3, **more: Any) -> Report:
    pair = (run("joint", 0.5 + headline.change.value, seeds), run("averaged", 0.5, seeds))
    made = Report(
        comparison=Comparison(1500, pair, (headline,)),
        headline=("joint", "averaged"),
        control=None,
        data=None,
        differing_fields={},
        like_for_like=False,
        notes=[],
        warnings=[],
        gallery=GalleryNote(0, 0, 0, 0, None, None, ""),
        version="0",
        date="2026-11-28",
    )
    return replace(made, **more)


def by_images(one: Change) -> dict[str, Any]:
    several = change(0.06, (0.04, 0.08), 0.001, n=1100)
    return {"groups": {"by_several_images": {"one": replace(one, n=400), "several": several}}}


CLEAR = (0.042, (0.029, 0.055), 0.0004)
NOTHING = change(0.002, (-0.01, 0.014), 0.7)


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
            difference(-0.042, (-0.055, -0.029), 0.02, **by_images(change(*CLEAR))),
            1,
            {"warnings": ["joint was trained on 3 of these 1500 products: this is no test"]},
            "averaged is right more often than joint by 4.2 points (95 %: 2.9 to 5.5, "
            "p = 0.020; 1 seed, 1,500 products); on the 400 products with one image joint is, "
            "by 4.2 (2.9 to 5.5); but this is no test: a run has seen some of these "
            "products.",
        ),
        (
            difference(0.01, (-0.005, 0.025), 0.19),
            1,
            {"differing_fields": {"seed": {}}},
            "No difference between joint and averaged is shown: joint is ahead by 1.0 points "
            "(95 %: \u22120.5 to 2.5, p = 0.190; 1 seed, 1,500 products); to confirm that takes "
            "about 9,012 products; the runs differ in more than the pooling.",
        ),
        (
            difference(-0.01, (-0.025, 0.005), 0.19),
            3,
            {},
            "No difference between joint and averaged is shown: averaged is ahead by 1.0 points "
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
            "No difference between joint and averaged is shown: both are right as often "
            "(95 %: \u22121.0 to 1.0, p = 1; 1 seed, 1,500 products).",
        ),
        (
            difference(*CLEAR, **by_images(change(*CLEAR))),
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
            "No difference between joint and averaged is shown: joint is ahead by 1.0 points "
            "(95 %: 0.1 to 2.0, p = 0.060; 1 seed, 1,500 products); to confirm that takes "
            "about 9,012 products.",
        ),
    ],
)
def test_verdict(headline: Difference, seeds: int, more: dict, expected: str) -> None:
    assert verdict(report(headline, seeds, **more)) == expected


def test_the_summary_counts_in_a_thousand() -> None:
    """In a hundred, 99.8 % would be all of them."""
    pair = (run("joint", 0.998), run("averaged", 0.1604))
    made = replace(
        report(difference(*CLEAR)), comparison=Comparison(1500, pair, (difference(*CLEAR),))
    )
    assert summary(made)[0].startswith(
        "Of every 1,000 products, joint puts 998 into the right category at its first guess and "
        "averaged 160: a difference of +4.2 points"
    )


@pytest.mark.parametrize(
    ("how", "ci95", "same_guess", "gives_reason"),
    [
        (("residual", "probabilities"), (0.07, 0.14), 0.55, True),
        (("residual", "probabilities"), (-0.01, 0.14), 0.55, False),
        (("residual", "probabilities"), (-0.14, -0.07), 0.55, False),
        (("residual", "probabilities"), (0.07, 0.14), 0.97, False),  # a control, and it fails
        (("residual", "mean"), (0.07, 0.14), 0.55, False),
        (("", "probabilities"), (0.07, 0.14), 0.55, False),  # a file does not say how it was made
    ],
)
def test_why_single_images_differ(
    how: tuple[str, str], ci95: tuple[float, float], same_guess: float, gives_reason: bool
) -> None:
    a, b = (run(name, 0.5, how=one) for name, one in zip(("joint", "averaged"), how, strict=True))
    headline = difference(*CLEAR)
    alone = change(sum(ci95) / 2, ci95, 0.001, n=486)
    said = summary(
        replace(
            report(headline),
            comparison=Comparison(1500, (a, b), (headline,)),
            control=Control(alone, same_guess, treats_alike=same_guess > 0.95, holds=False),
        )
    )[2]
    reason = (
        "is a result of how joint was trained. A possible reason: joint learns from whole "
        "products, so it can know which categories never have a single image; averaged, trained "
        "image by image, cannot."
    )
    assert said.endswith(reason) == gives_reason
    assert ("reason" in said) == gives_reason


def test_a_rule_is_trained_as_its_run() -> None:
    """So the reason is given for it too."""
    made = with_rule("averaged/vote")
    how = {"joint": "residual", "averaged": "probabilities", "averaged/vote": "each has one vote"}
    scores = tuple(replace(one, how=how[one.name]) for one in made.comparison.scores)
    alone = Control(change(*CLEAR), 0.5, treats_alike=False, holds=False)
    said = summary(replace(made, comparison=replace(made.comparison, scores=scores), control=alone))
    assert said[2].endswith("averaged/vote, trained image by image, cannot.")


def test_the_summary_says_which_test() -> None:
    of_seeds = {"between_seeds": Spread((0.04, 0.044), 0.003), "mcnemar_p_of_seeds": (0.2, 0.0001)}
    said = summary(report(difference(*CLEAR, **of_seeds), 2))
    assert "(pooled test over products and seeds, p <\u00a00.001)" in said[1]
    assert "exact McNemar tests of each: p = 0.200, <\u00a00.001" in said[-1]
    said = summary(report(difference(*CLEAR), 1))
    assert "(exact McNemar test, p <\u00a00.001)" in said[1]


@pytest.mark.parametrize(
    ("rule", "over_rule", "p", "expected"),
    [
        (
            0.56,
            (0.04, 0.02, 0.06),
            0.001,
            "; by 4.0 (2.0 to 6.0) over averaged's best other rule, geometric mean; on the 400 "
            "products with one image no difference is seen.",
        ),
        (
            0.595,
            (0.005, -0.01, 0.02),
            0.4,
            "; no difference from averaged's best other rule, geometric mean, is shown: +0.5 "
            "(\u22121.0 to +2.0); on the 400 products with one image no difference is seen.",
        ),
        (
            0.63,
            (-0.03, -0.05, -0.01),
            0.01,
            "; averaged's best other rule, geometric mean, is right more often than joint, by 3.0 "
            "(1.0 to 5.0); on the 400 products with one image no difference is seen.",
        ),
        # No better than the plain mean: nothing to say of it.
        (
            0.5,
            (0.1, 0.08, 0.12),
            0.001,
            "; on the 400 products with one image no difference is seen.",
        ),
    ],
)
def test_verdict_names_the_better_rule(
    rule: float, over_rule: tuple[float, float, float], p: float, expected: str
) -> None:
    """The reference's own best rule, where it is better than the reference."""
    plain = difference(0.1, (0.08, 0.12), 0.0001, **by_images(NOTHING))
    value, *ci95 = over_rule
    over = difference(value, (ci95[0], ci95[1]), p, b="averaged/geometric_mean")
    made = report(plain)
    scores = (
        *made.comparison.scores,
        run("averaged/vote", 0.4, rule_of="averaged"),
        run("averaged/geometric_mean", rule, rule_of="averaged"),
    )
    said = verdict(replace(made, comparison=Comparison(1500, scores, (plain, over))))
    start = "joint is right more often than averaged by 10.0 points (95 %: 8.0 to 12.0, p "
    assert said == f"{start}<\u00a00.001; 3 seeds, 1,500 products){expected}"


def with_rule(reference: str) -> Report:
    of = {"joint": 0.6, "averaged": 0.5, "averaged/vote": 0.55}
    pairs = {
        "averaged": [("averaged/vote", "averaged"), ("joint", "averaged/vote")],
        "averaged/vote": [("averaged", "averaged/vote"), ("joint", "averaged/vote")],
    }[reference]
    own = {
        name: {
            count: GroupAccuracy(10, Estimate(value, value - 0.02, value + 0.02))
            for count in "123456"
        }
        for name, value in of.items()
    }
    differences = tuple(
        difference(
            of[a] - of[b],
            (of[a] - of[b] - 0.01, of[a] - of[b] + 0.02),
            0.01,
            fixed=70.0,
            broke=20.5,
            a=a,
            b=b,
            groups={"by_num_images": {count: change(*CLEAR, n=10) for count in "123456"}},
        )
        for a, b in [("joint", "averaged"), *pairs]
    )
    scores = tuple(
        run(name, value, rule_of="averaged" if "/" in name else None,
            groups={"by_num_images": own[name]})
        for name, value in of.items()
    )  # fmt: skip
    made = report(differences[0])
    return replace(
        made, headline=("joint", reference), comparison=Comparison(1500, scores, differences)
    )


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
    unknown = replace(found.difference, groups={})
    comparison = replace(found.comparison, differences=(unknown,))
    assert table_by_num_images(replace(found, comparison=comparison)) == ""
