"""How two contestants differ, by paired tests, and where the difference comes from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from product_mil.compare.answers import Contestant, Questions
from product_mil.compare.statistics.groups import Groups
from product_mil.compare.statistics.measured import METRICS, Measured, interval, spread
from product_mil.compare.statistics.tests import (
    Draws,
    Estimate,
    holm,
    mcnemar_p,
    means_of_signs,
    over_seeds,
    percentile_estimate,
    products_needed,
    seeds_difference,
    two_sided_p,
)

ALIKE = 0.95  # share of equal guesses from which on two runs treat an image alike


def difference(a: Measured, b: Measured, groups: Groups) -> dict[str, Any]:
    """a minus b: `ci95` and the `p` that goes with it, fixed and broken products, and groups."""
    found: dict[str, Any] = {}
    n = a.correct.shape[1]
    for name in METRICS:
        if name not in a.draws or name not in b.draws:
            continue
        draws = seeds_difference(a.draws[name], b.draws[name])
        if name == "accuracy":
            found |= _tested(a.correct, b.correct, draws)
        else:
            estimate = percentile_estimate(draws.value[0], draws.resampled[:, 0])
            found[name] = interval(estimate)
    found["products_needed"] = products_needed(found["fixed"], found["broke"], n)
    pairs = min(len(a.correct), len(b.correct))
    if pairs > 1:
        by_seed = a.draws["accuracy"].value[:pairs] - b.draws["accuracy"].value[:pairs]
        p_values = list(map(mcnemar_p, *_changes(a.correct, b.correct)))
        found["between_seeds"] = {**spread(by_seed), "mcnemar_p": p_values}
    for name, members in groups.items():
        found[name] = {
            group: {"n": len(rows), **_of_group(a.correct[:, rows], b.correct[:, rows])}
            for group, rows in members.items()
        }
    correct_for_number(list(found["by_level1"].values()))
    return found


def correct_for_number(differences: list[dict[str, Any]]) -> None:
    """Give each its p corrected for how many there are, as `holm_p`."""
    for one, p in zip(differences, holm([one["p"] for one in differences]), strict=True):
        one["holm_p"] = p


def _tested(
    a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"], draws: Draws
) -> dict[str, Any]:
    """The difference with interval and test, from what `seeds_difference` drew."""
    fixed, broke = _changes(a, b)
    of_seeds = list(map(mcnemar_p, fixed, broke))
    estimate, p = percentile_estimate(draws.value[0], draws.resampled[:, 0]), of_seeds[0]
    if not len(a) == len(b) == 1:
        # Of several seeds from the same resamples as the interval, so that the two agree.
        p = two_sided_p(draws.resampled[:, 0])
        estimate, p = _allow_for_few(estimate, p, int((a.mean(0) != b.mean(0)).sum()))
    return {
        **interval(estimate),
        "p": p,
        "mcnemar_p": max(of_seeds),  # of the pairs of seeds
        "fixed": float(np.mean(fixed)),
        "broke": float(np.mean(broke)),
    }


def _allow_for_few(estimate: Estimate, p: float, num_changed: int) -> tuple[Estimate, float]:
    """Resamples of a handful of changes are too sure of themselves: no sign test is surer.

    If all changes go one way, its p is 2 / 2^changes; above 0.05 the interval reaches 0 too.
    """
    p = max(p, min(1.0, 2.0 ** (1 - num_changed)))
    if p < 0.05:
        return estimate, p
    return Estimate(estimate.value, min(estimate.low, 0.0), max(estimate.high, 0.0)), p


def _changes(
    a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"]
) -> tuple[list[int], list[int]]:
    """For each pair of seeds: products that a alone, and that b alone gets right."""
    pairs = list(zip(a, b, strict=False))
    fixed = [int((right & ~wrong).sum()) for right, wrong in pairs]
    return fixed, [int((~right & wrong).sum()) for right, wrong in pairs]


def _of_group(a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"]) -> dict[str, Any]:
    if len(a) == len(b):
        return _tested(a, b, over_seeds(means_of_signs(a.astype(np.int8) - b)))
    both = means_of_signs(np.concatenate([a, b]))
    of_a, of_b = (
        Draws(both.value[columns], both.resampled[:, columns])
        for columns in (slice(len(a)), slice(len(a), None))
    )
    return _tested(a, b, seeds_difference(of_a, of_b))


def control(
    questions: Questions, a: Contestant, b: Contestant, difference: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Whether products with one image are answered alike: nothing is fused there.

    They are a control only where both runs treat one image alike, which is read off their
    guesses (`ALIKE`); it holds if the interval of the difference includes 0. None where no
    product has one image, or it isn't known.
    """
    group = difference.get("by_num_images", {}).get("1")
    if group is None or questions.num_images is None:
        return None
    rows = np.flatnonzero(questions.num_images == 1)
    same = np.mean(
        [(x.guess[rows] == y.guess[rows]).mean() for x, y in zip(a.seeds, b.seeds, strict=False)]
    )
    low, high = group["ci95"]
    alike = bool(same >= ALIKE)
    return {
        **group,
        "same_guess": float(same),
        "treats_alike": alike,
        "holds": alike and low <= 0 <= high,
    }
