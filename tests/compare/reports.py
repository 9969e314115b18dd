"""Comparisons made by hand, for tests of what is said of them."""

from dataclasses import replace
from typing import Any

from product_mil.compare.report import GalleryNote, Report
from product_mil.compare.statistics.results import (
    Change,
    Comparison,
    Difference,
    GroupAccuracy,
    Scores,
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
