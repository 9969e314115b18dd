"""From questions and answers to every number of `comparison.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from product_mil.compare.answers import Answers, Contestant, Questions
from product_mil.compare.statistics import (
    Draws,
    Estimate,
    Resampler,
    holm,
    mcnemar_p,
    mean_estimate,
    percentile_estimate,
    products_needed,
    share_estimate,
    unbiased_estimate,
)
from product_mil.data.categories import Categories

FORMAT = 1
CALIBRATION_BINS = 15  # as `train.evaluate` has them
_RATES = ("accuracy", "top5", "nll", "calibrated_nll")  # means over products
_CALIBRATION = {
    "calibration_error": "confidence",
    "calibrated_calibration_error": "calibrated_confidence",
}
METRICS = (*_RATES, *_CALIBRATION)
ALIKE = 0.95  # share of equal guesses from which on two runs treat an image alike


@dataclass(frozen=True, eq=False)
class _Measured:
    """A contestant's metrics, on the data and on each resample; means over its seeds."""

    contestant: Contestant
    correct: Bool[np.ndarray, "seeds N"]
    draws: dict[str, Draws]  # by metric, where known; one column a seed

    def mean_correct(self) -> Float[np.ndarray, " N"]:
        return self.correct.mean(0)


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
    measured = {c.name: _measure(questions, c, resampler) for c in contestants}
    groups = _groups(questions, categories)
    described = {name: _described(m, groups) for name, m in measured.items()}
    rules = {c.name for c in contestants if c.rule_of is not None}
    return {
        "format": FORMAT,
        "n": len(questions),
        "runs": {name: value for name, value in described.items() if name not in rules},
        "rules": {name: value for name, value in described.items() if name in rules},
        "difference": {
            f"{a}_minus_{b}": _difference(measured[a], measured[b], groups) for a, b in pairs
        },
    }


def bins_of(confidence: Float[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Which of the equal calibration bins each confidence falls into."""
    return np.clip((confidence * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)


def _measure(questions: Questions, contestant: Contestant, resampler: Resampler) -> _Measured:
    correct = np.stack([seed.guess == questions.category_id for seed in contestant.seeds])
    by_seed = [
        _metrics(seed, right, resampler)
        for seed, right in zip(contestant.seeds, correct, strict=True)
    ]
    draws = {
        name: Draws(
            np.array([metrics[name].value[0] for metrics in by_seed]),
            np.stack([metrics[name].resampled[:, 0] for metrics in by_seed], 1),
        )
        for name in METRICS
        if all(name in metrics for metrics in by_seed)
    }
    return _Measured(contestant, correct, draws)


def _metrics(
    answers: Answers, correct: Bool[np.ndarray, " N"], resampler: Resampler
) -> dict[str, Draws]:
    """Each metric that the answers allow, of one seed."""
    columns = {"accuracy": resampler.sums(correct)}
    if answers.in_top5 is not None:
        columns["top5"] = resampler.sums(answers.in_top5)
    for name, log_prob in (
        ("nll", answers.log_prob_true),
        ("calibrated_nll", answers.calibrated_log_prob_true),
    ):
        if log_prob is not None:
            columns[name] = resampler.sums(-log_prob.astype(np.float64))
    for name, field in _CALIBRATION.items():
        confidence = getattr(answers, field)
        if confidence is not None:
            gap = confidence.astype(np.float64) - correct
            columns[name] = resampler.sums_by(gap, bins_of(confidence), CALIBRATION_BINS)
    means = resampler.means(np.concatenate(list(columns.values()), 1))
    found, at = {}, 0
    for name, sums in columns.items():
        part = slice(at, at := at + sums.shape[1])
        value, resampled = means.value[part], means.resampled[:, part]
        if name in _CALIBRATION:  # Guo et al. 2017: the sum over bins of |confidence - accuracy|
            value = np.abs(value).sum(keepdims=True)
            resampled = np.abs(resampled).sum(1, keepdims=True)
        found[name] = Draws(value, resampled)
    return found


Groups = dict[str, dict[str, Int64[np.ndarray, " n"]]]


def _groups(questions: Questions, categories: Categories) -> Groups:
    """Rows of the products of each number of images, level-1 category, and so on."""
    found: Groups = {}
    if questions.num_images is not None:
        found["by_num_images"] = {
            str(count): np.flatnonzero(questions.num_images == count)
            for count in np.unique(questions.num_images).tolist()
        }
    place = categories.class_of(questions.category_id)
    found["by_level1"] = {}
    for name, members in _members(categories):
        rows = np.flatnonzero(np.isin(place, members))
        if len(rows):
            found["by_level1"][name] = rows
    if questions.shares_image is not None:
        found["by_shared_image"] = {
            name: rows
            for name, chosen in (
                ("shares_an_image_with_training", questions.shares_image),
                ("shares_none", ~questions.shares_image),
            )
            if len(rows := np.flatnonzero(chosen))
        }
    return found


def _members(categories: Categories) -> Iterator[tuple[str, Int64[np.ndarray, " c"]]]:
    """Name and classes of each category of level 1."""
    for group in range(int(categories.level1.max()) + 1):
        members = np.flatnonzero(categories.level1 == group)
        yield categories.names[members[0]][0], members


def _interval(estimate: Estimate, name: str = "") -> dict[str, Any]:
    """`name` and `name_ci95`, or `value` and `ci95`."""
    ci95 = [estimate.low, estimate.high]
    return {name: estimate.value, f"{name}_ci95": ci95} if name else {
        "value": estimate.value, "ci95": ci95
    }  # fmt: skip


def _of_metric(name: str, value: float, resampled: Float[np.ndarray, " B"]) -> Estimate:
    estimate = unbiased_estimate if name in _CALIBRATION else percentile_estimate
    return estimate(value, resampled)


def _accuracy(correct: Bool[np.ndarray, "seeds n"]) -> Estimate:
    """Wilson's interval for one seed; over several a product may be right in some of them."""
    if len(correct) == 1:
        return share_estimate(int(correct.sum()), correct.shape[1])
    return mean_estimate(correct.mean(0))


def _described(measured: _Measured, groups: Groups) -> dict[str, Any]:
    """What `comparison.json` says of a contestant."""
    contestant, correct = measured.contestant, measured.correct
    found: dict[str, Any] = {"how": contestant.how, "seeds": len(contestant.seeds)}
    if contestant.rule_of is not None:
        found["rule_of"] = contestant.rule_of
    for name, draws in measured.draws.items():
        estimate = (
            _accuracy(correct)
            if name == "accuracy"
            else _of_metric(name, draws.value.mean(), draws.resampled.mean(1))
        )
        found |= _interval(estimate, name)
    temperatures = [seed.temperature for seed in contestant.seeds]
    if None not in temperatures:
        found["temperature"] = float(np.mean(temperatures))  # type: ignore[arg-type]
    for name, members in groups.items():
        found[name] = {
            group: {"n": len(rows)} | _interval(_accuracy(correct[:, rows]), "accuracy")
            for group, rows in members.items()
        }
    if len(contestant.seeds) > 1:
        found["between_seeds"] = {
            name: _spread(draws.value) for name, draws in measured.draws.items()
        }
    found["reliability"] = {
        field: _reliability(contestant.seeds, correct, field)
        for field in _CALIBRATION.values()
        if all(getattr(seed, field) is not None for seed in contestant.seeds)
    }
    return found


def _spread(values: Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    return {"values": values.tolist(), "standard_deviation": float(values.std(ddof=1))}


def _reliability(
    seeds: Sequence[Answers], correct: Bool[np.ndarray, "seeds N"], field: str
) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of each bin that holds a product, over all seeds."""
    confidence = np.concatenate([getattr(seed, field) for seed in seeds]).astype(np.float64)
    bins, right = bins_of(confidence), correct.reshape(-1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = np.bincount(bins, confidence, CALIBRATION_BINS)
    hits = np.bincount(bins, right, CALIBRATION_BINS)
    return [
        {
            "n": int(counts[b]),
            "confidence": float(sums[b] / counts[b]),
        }
        | _interval(share_estimate(int(hits[b]), int(counts[b])), "accuracy")
        for b in np.flatnonzero(counts)
    ]


def _difference(a: _Measured, b: _Measured, groups: Groups) -> dict[str, Any]:
    """a minus b: paired intervals, exact tests, and where the difference comes from."""
    found: dict[str, Any] = {}
    for name in METRICS:
        if name not in a.draws or name not in b.draws:
            continue
        value = a.draws[name].value.mean() - b.draws[name].value.mean()
        resampled = a.draws[name].resampled.mean(1) - b.draws[name].resampled.mean(1)
        estimate = _interval(percentile_estimate(value, resampled))
        found |= estimate if name == "accuracy" else {name: estimate}
    fixed, broke = _changes(a.correct, b.correct)
    n = a.correct.shape[1]
    # Of several seeds the largest: p is small only where every pair of seeds shows a difference.
    found["mcnemar_p"] = max(map(mcnemar_p, fixed, broke))
    found["fixed"], found["broke"] = float(np.mean(fixed)), float(np.mean(broke))
    found["products_needed"] = products_needed(found["fixed"], found["broke"], n)
    if len(fixed) > 1:
        by_seed = a.draws["accuracy"].value[: len(fixed)] - b.draws["accuracy"].value[: len(fixed)]
        found["between_seeds"] = {
            **_spread(by_seed),
            "mcnemar_p": list(map(mcnemar_p, fixed, broke)),
        }
    for name, members in groups.items():
        found[name] = {group: _of_group(a, b, rows) for group, rows in members.items()}
    for group, p in zip(
        found["by_level1"].values(),
        holm([group["mcnemar_p"] for group in found["by_level1"].values()]),
        strict=True,
    ):
        group["holm_p"] = p
    return found


def _changes(
    a: Bool[np.ndarray, "seeds_a n"], b: Bool[np.ndarray, "seeds_b n"]
) -> tuple[list[int], list[int]]:
    """For each pair of seeds: products that a alone, and that b alone gets right."""
    pairs = list(zip(a, b, strict=False))
    fixed = [int((right & ~wrong).sum()) for right, wrong in pairs]
    return fixed, [int((~right & wrong).sum()) for right, wrong in pairs]


def _of_group(a: _Measured, b: _Measured, rows: Int64[np.ndarray, " n"]) -> dict[str, Any]:
    of_a, of_b = a.correct[:, rows], b.correct[:, rows]
    fixed, broke = _changes(of_a, of_b)
    return {
        "n": len(rows),
        **_interval(mean_estimate(of_a.mean(0) - of_b.mean(0))),
        "mcnemar_p": max(map(mcnemar_p, fixed, broke)),
        "fixed": float(np.mean(fixed)),
        "broke": float(np.mean(broke)),
    }


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
