"""The metrics of one entry, on the data and on each resample of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from product_mil.compare.answers import Answers, Entry, Questions
from product_mil.compare.statistics.groups import Groups
from product_mil.compare.statistics.results import (
    ConfidenceBin,
    GroupAccuracy,
    Scores,
    Spread,
)
from product_mil.compare.statistics.tests import (
    Draws,
    Estimate,
    Resampler,
    means_of_signs,
    over_seeds,
    percentile_estimate,
    share_estimate,
    unbiased_estimate,
)
from product_mil.inference.calibration_error import CALIBRATION_BINS, bins_of, total_gap

_RATES = ("accuracy", "top5", "nll", "calibrated_nll")  # means over products
_CALIBRATION = {
    "calibration_error": "confidence",
    "calibrated_calibration_error": "calibrated_confidence",
}
METRICS = (*_RATES, *_CALIBRATION)
_UNBOUNDED = ("nll", "calibrated_nll")  # at least 0; all other metrics are also at most 1


@dataclass(frozen=True, eq=False)
class Measured:
    """The metrics of an entry, on the data and on each resample."""

    entry: Entry
    correct: Bool[np.ndarray, "seeds N"]
    draws: dict[str, Draws]  # by metric, where known; one column a seed


def measure(questions: Questions, entry: Entry, resampler: Resampler) -> Measured:
    """Compute the metrics of each seed of an entry."""
    correct = np.stack([seed.guess == questions.category_id for seed in entry.seeds])
    by_seed = [
        _metrics(seed, right, resampler) for seed, right in zip(entry.seeds, correct, strict=True)
    ]
    draws = {
        name: Draws(
            np.array([metrics[name].value[0] for metrics in by_seed]),
            np.stack([metrics[name].resampled[:, 0] for metrics in by_seed], 1),
        )
        for name in METRICS
        if all(name in metrics for metrics in by_seed)
    }
    return Measured(entry, correct, draws)


def _metrics(
    answers: Answers, correct: Bool[np.ndarray, " N"], resampler: Resampler
) -> dict[str, Draws]:
    """The metrics of one seed, as far as its answers allow them."""
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
        if name in _CALIBRATION:
            value, resampled = total_gap(value), total_gap(resampled)
        found[name] = Draws(value, resampled)
    return found


def estimate_of(metric: str, draws: Draws, *, of_difference: bool = False) -> Estimate:
    """The interval of a metric, or of a difference between two values of it.

    Resamples of seeds can leave the range of the metric; the interval is cut to that range.
    """
    unbiased = metric in _CALIBRATION and not of_difference
    estimate = unbiased_estimate if unbiased else percentile_estimate
    value, low, high = estimate(draws.value[0], draws.resampled[:, 0])
    highest = math.inf if metric in _UNBOUNDED else 1.0
    lowest = -highest if of_difference else 0.0
    return Estimate(value, min(max(low, lowest), highest), min(max(high, lowest), highest))


def _accuracy(correct: Bool[np.ndarray, "seeds n"]) -> Estimate:
    """Accuracy with Wilson's interval for one seed, or with a bootstrap over several seeds."""
    if len(correct) == 1:
        return share_estimate(int(correct.sum()), correct.shape[1])
    return estimate_of("accuracy", over_seeds(means_of_signs(correct)))


def scores_of(measured: Measured, groups: Groups) -> Scores:
    """All figures of an entry with their intervals."""
    entry, correct = measured.entry, measured.correct
    temperatures = [seed.temperature for seed in entry.seeds]
    several = len(entry.seeds) > 1
    return Scores(
        name=entry.name,
        how=entry.how,
        rule_of=entry.rule_of,
        seeds=len(entry.seeds),
        metrics={
            name: _accuracy(correct) if name == "accuracy" else estimate_of(name, over_seeds(draws))
            for name, draws in measured.draws.items()
        },
        temperature=None if None in temperatures else float(np.mean(temperatures)),  # type: ignore[arg-type]
        groups={
            name: {
                group: GroupAccuracy(len(rows), _accuracy(correct[:, rows]))
                for group, rows in members.items()
            }
            for name, members in groups.items()
        },
        between_seeds={name: spread(draws.value) for name, draws in measured.draws.items()}
        if several
        else {},
        reliability={
            field: _reliability(entry.seeds, correct, field)
            for field in _CALIBRATION.values()
            if all(getattr(seed, field) is not None for seed in entry.seeds)
        },
    )


def spread(values: Float[np.ndarray, " seeds"]) -> Spread:
    """The values of each seed and their standard deviation."""
    return Spread(tuple(values.tolist()), float(values.std(ddof=1)))


def _reliability(
    seeds: Sequence[Answers], correct: Bool[np.ndarray, "seeds N"], field: str
) -> tuple[ConfidenceBin, ...]:
    """Mean confidence and accuracy of each bin that holds a product, over all seeds."""
    confidence = np.concatenate([getattr(seed, field) for seed in seeds]).astype(np.float64)
    bins, right = bins_of(confidence), correct.reshape(-1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = np.bincount(bins, confidence, CALIBRATION_BINS)
    hits = np.bincount(bins, right, CALIBRATION_BINS)
    return tuple(
        ConfidenceBin(
            int(counts[b]),
            float(sums[b] / counts[b]),
            share_estimate(int(hits[b]), int(counts[b])),
        )
        for b in np.flatnonzero(counts)
    )
