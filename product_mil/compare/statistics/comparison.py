"""From questions and answers to every number of `comparison.json`."""

from collections.abc import Sequence
from typing import Any

from product_mil.compare.answers import Contestant, Questions
from product_mil.compare.statistics.differences import correct_for_number, difference
from product_mil.compare.statistics.groups import groups_of
from product_mil.compare.statistics.measured import described, measure
from product_mil.compare.statistics.tests import Resampler
from product_mil.sources.categories import Categories

FORMAT = 2  # 1: intervals of several seeds were over products alone, and `p` was `mcnemar_p`


def compare(
    questions: Questions,
    contestants: Sequence[Contestant],
    pairs: Sequence[tuple[str, str]],
    categories: Categories,
) -> dict[str, Any]:
    """Metrics of every contestant, and of each pair (a, b) the difference a minus b.

    Every answer is of the same products in the same order: all tests are paired.
    """
    resampler = Resampler(len(questions))
    measured = {c.name: measure(questions, c, resampler) for c in contestants}
    groups = groups_of(questions, categories)
    found = {name: described(m, groups) for name, m in measured.items()}
    rules = {c.name for c in contestants if c.rule_of is not None}
    differences = {f"{a}_minus_{b}": difference(measured[a], measured[b], groups) for a, b in pairs}
    correct_for_number(list(differences.values()))
    return {
        "format": FORMAT,
        "n": len(questions),
        "runs": {name: value for name, value in found.items() if name not in rules},
        "rules": {name: value for name, value in found.items() if name in rules},
        "difference": differences,
    }
