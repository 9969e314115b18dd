"""The one line that says what to believe, and the sentences, on comparisons made by hand."""

from dataclasses import replace

import pytest

from product_mil.compare.page.sentences import summary, verdict
from product_mil.compare.statistics.results import (
    Comparison,
    Control,
    Difference,
    Spread,
)
from tests.compare.reports import (
    CLEAR,
    NOTHING,
    by_images,
    change,
    difference,
    report,
    run,
    with_rule,
)


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
            "about 9,000 products; the runs differ in more than the pooling.",
        ),
        (
            difference(-0.01, (-0.025, 0.005), 0.19),
            3,
            {},
            "No difference between joint and averaged is shown: averaged is ahead by 1.0 points "
            "(95 %: \u22120.5 to 2.5, p = 0.190; 3 seeds, 1,500 products); to confirm that takes "
            "about 9,000 products or more seeds.",
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
            "about 9,000 products.",
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
