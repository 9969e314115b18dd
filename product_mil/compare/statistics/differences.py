"""Paired tests of the difference between two entries, on all products and in groups of them."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from product_mil.compare.answers import Entry, Questions
from product_mil.compare.statistics.groups import Groups
from product_mil.compare.statistics.measured import METRICS, Measured, estimate_of, spread
from product_mil.compare.statistics.results import Change, Control, Difference
from product_mil.compare.statistics.tests import (
    Draws,
    Estimate,
    holm,
    mcnemar_p,
    means_of_signs,
    over_seeds,
    products_needed,
    seeds_difference,
    two_sided_p,
)

ALIKE = 0.95  # two runs treat one image alike if at least this share of their guesses is equal


def difference(a: Measured, b: Measured, groups: Groups) -> Difference:
    """The difference a minus b, on all products and in each group."""
    drawn = {
        name: seeds_difference(a.draws[name], b.draws[name])
        for name in METRICS
        if name in a.draws and name in b.draws
    }
    change = _tested(a.correct, b.correct, drawn.pop("accuracy"))
    pairs = min(len(a.correct), len(b.correct))
    by_seed = a.draws["accuracy"].value[:pairs] - b.draws["accuracy"].value[:pairs]
    changes = {
        name: {
            group: _of_group(a.correct[:, rows], b.correct[:, rows])
            for group, rows in members.items()
        }
        for name, members in groups.items()
    }
    level1 = changes["by_level1"]
    changes["by_level1"] = dict(zip(level1, correct_for_number(list(level1.values())), strict=True))
    return Difference(
        a=a.entry.name,
        b=b.entry.name,
        change=change,
        metrics={
            name: estimate_of(name, draws, of_difference=True) for name, draws in drawn.items()
        },
        products_needed=products_needed(change.fixed, change.broke, change.n),
        between_seeds=spread(by_seed) if pairs > 1 else None,
        mcnemar_p_of_seeds=tuple(map(mcnemar_p, *_changes(a.correct, b.correct))),
        groups=changes,
    )


def correct_for_number(changes: list[Change]) -> list[Change]:
    """The changes with `holm_p`: their p-values corrected for the number of changes."""
    corrected = holm([change.p for change in changes])
    return [replace(change, holm_p=p) for change, p in zip(changes, corrected, strict=True)]


def _tested(
    a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"], draws: Draws
) -> Change:
    """The difference with interval and test, from the draws of `seeds_difference`."""
    fixed, broke = _changes(a, b)
    of_seeds = list(map(mcnemar_p, fixed, broke))
    estimate, p = estimate_of("accuracy", draws, of_difference=True), of_seeds[0]
    if not len(a) == len(b) == 1:
        # With several seeds, p comes from the same resamples as the interval, so the two agree.
        p = two_sided_p(draws.resampled[:, 0])
        estimate, p = _allow_for_few(estimate, p, int((a.mean(0) != b.mean(0)).sum()))
    return Change(
        n=a.shape[1],
        estimate=estimate,
        p=p,
        mcnemar_p=max(of_seeds),
        fixed=float(np.mean(fixed)),
        broke=float(np.mean(broke)),
    )


def _allow_for_few(estimate: Estimate, p: float, num_changed: int) -> tuple[Estimate, float]:
    """The estimate and p, made less certain where only a handful of products changed.

    Resamples of so few changes vary too little. So p is at least that of a sign test in which all
    changes go one way, 2 / 2^changes. If p is then 0.05 or more, the interval includes 0.
    """
    p = max(p, min(1.0, 2.0 ** (1 - num_changed)))
    if p < 0.05:
        return estimate, p
    return Estimate(estimate.value, min(estimate.low, 0.0), max(estimate.high, 0.0)), p


def _changes(
    a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"]
) -> tuple[list[int], list[int]]:
    """For each pair of seeds, the number of products that only a and that only b gets right."""
    pairs = list(zip(a, b, strict=False))
    fixed = [int((right & ~wrong).sum()) for right, wrong in pairs]
    return fixed, [int((~right & wrong).sum()) for right, wrong in pairs]


def _of_group(a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"]) -> Change:
    if len(a) == len(b):
        return _tested(a, b, over_seeds(means_of_signs(a.astype(np.int8) - b)))
    both = means_of_signs(np.concatenate([a, b]))
    of_a, of_b = (
        Draws(both.value[columns], both.resampled[:, columns])
        for columns in (slice(len(a)), slice(len(a), None))
    )
    return _tested(a, b, seeds_difference(of_a, of_b))


def control(questions: Questions, a: Entry, b: Entry, difference: Difference) -> Control | None:
    """Compare a and b on products with one image, where there is nothing to fuse.

    These products are a control only where both runs treat a single image alike, that is, where
    their guesses mostly agree (`ALIKE`). The control holds if the interval of the difference
    includes 0. None if no product has one image, or the numbers of images are not known.
    """
    change = difference.groups.get("by_num_images", {}).get("1")
    if change is None or questions.num_images is None:
        return None
    rows = np.flatnonzero(questions.num_images == 1)
    same = np.mean(
        [(x.guess[rows] == y.guess[rows]).mean() for x, y in zip(a.seeds, b.seeds, strict=False)]
    )
    low, high = change.ci95
    alike = bool(same >= ALIKE)
    return Control(change, float(same), alike, holds=alike and low <= 0 <= high)
