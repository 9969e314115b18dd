"""From questions and answers to every number of the comparison."""

from collections.abc import Sequence
from dataclasses import replace

from product_mil.compare.answers import Entry, Questions
from product_mil.compare.statistics.differences import correct_for_number, difference
from product_mil.compare.statistics.groups import groups_of
from product_mil.compare.statistics.measured import measure, scores_of
from product_mil.compare.statistics.results import Comparison
from product_mil.compare.statistics.tests import Resampler
from product_mil.sources.categories import Categories


def compare(
    questions: Questions,
    entries: Sequence[Entry],
    pairs: Sequence[tuple[str, str]],
    categories: Categories,
) -> Comparison:
    """The metrics of every entry, and for each pair (a, b) the difference a minus b.

    All answers are of the same products in the same order, so all tests are paired.
    """
    resampler = Resampler(len(questions))
    measured = {c.name: measure(questions, c, resampler) for c in entries}
    groups = groups_of(questions, categories)
    differences = [difference(measured[a], measured[b], groups) for a, b in pairs]
    changes = correct_for_number([found.change for found in differences])
    return Comparison(
        n=len(questions),
        scores=tuple(scores_of(one, groups) for one in measured.values()),
        differences=tuple(
            replace(found, change=change)
            for found, change in zip(differences, changes, strict=True)
        ),
    )
