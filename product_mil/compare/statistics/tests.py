"""Intervals, paired tests and power, by NumPy and SciPy alone.

All functions take plain arrays over products, so each number can be checked by hand.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import stats

RESAMPLES = 4000
MAX_UNITS = 20_000
_BLOCK = 250  # resamples multiplied at once
_TAILS = (2.5, 97.5)


class Estimate(NamedTuple):
    """A number and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def ci95(self) -> tuple[float, float]:
        """The two ends of the interval."""
        return self.low, self.high


class Draws(NamedTuple):
    """A statistic of the data, and of each resample of them."""

    value: Float[np.ndarray, " m"]
    resampled: Float[np.ndarray, "B m"]


class Resampler:
    """The bootstrap of Efron (1979) over N products, with bounded memory and time.

    All estimates are functions of means over products. More than `max_units` products are first
    added up in that many random groups, and then groups are drawn with replacement. For means that
    gives the same distribution; its width is accurate to 1 / sqrt(2 max_units), half a percent.
    Every call draws the same products, so differences between runs are paired.
    """

    def __init__(
        self,
        num_products: int,
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
        max_units: int = MAX_UNITS,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._num_units = min(num_products, max_units)
        self._unit = np.arange(num_products, dtype=np.int32)
        if num_products > max_units:
            rng.shuffle(self._unit)
            self._unit %= max_units
        # How often each unit is drawn; more than 255 times never happens.
        self._times = np.stack(
            [
                np.bincount(
                    rng.integers(0, self._num_units, self._num_units), minlength=self._num_units
                ).astype(np.uint8)
                for _ in range(resamples)
            ]
        )
        self._sizes = np.bincount(self._unit, minlength=self._num_units).astype(np.float64)

    def sums(
        self, values: Num[np.ndarray, " N"] | Bool[np.ndarray, " N"]
    ) -> Float[np.ndarray, "G 1"]:
        """The values added up by unit."""
        return np.bincount(self._unit, weights=values, minlength=self._num_units)[:, None]

    def sums_by(
        self, values: Float[np.ndarray, " N"], group: Int[np.ndarray, " N"], num_groups: int
    ) -> Float[np.ndarray, "G g"]:
        """The values added up by unit and group."""
        place = self._unit.astype(np.int64) * num_groups + group
        size = self._num_units * num_groups
        return np.bincount(place, weights=values, minlength=size).reshape(-1, num_groups)

    def means(self, sums: Float[np.ndarray, "G m"]) -> Draws:
        """Means over all products, and over those of each resample."""
        columns = np.concatenate([sums, self._sizes[:, None]], 1)
        drawn = np.concatenate(
            [
                self._times[first : first + _BLOCK].astype(np.float64) @ columns
                for first in range(0, len(self._times), _BLOCK)
            ]
        )
        total = columns.sum(0)
        return Draws(total[:-1] / total[-1], drawn[:, :-1] / drawn[:, -1:])


def drawn_seeds(draws: Draws, rng: np.random.Generator) -> Draws:
    """The mean over m seeds (one column each), where every resample also draws m of the seeds.

    This is the hierarchical bootstrap: the interval is valid for other products and other seeds. m
    seeds lie closer to their own mean than to the mean of all possible seeds, so the deviation of
    the drawn seeds is stretched by sqrt(m / (m - 1)). A single seed says nothing about others, and
    stays as it is.
    """
    resamples, seeds = draws.resampled.shape
    chosen = rng.integers(0, seeds, (resamples, seeds))
    centre = draws.resampled.mean(1, keepdims=True)
    drawn = np.take_along_axis(draws.resampled, chosen, 1).mean(1, keepdims=True)
    stretch = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    return Draws(draws.value.mean(keepdims=True), centre + stretch * (drawn - centre))


def over_seeds(draws: Draws) -> Draws:
    """`drawn_seeds` with a fixed generator, so that every call draws the same seeds."""
    return drawn_seeds(draws, np.random.default_rng(1))


def seeds_difference(a: Draws, b: Draws) -> Draws:
    """The mean over seeds of a minus that of b, where every resample also draws the seeds.

    If both have equally many seeds, they are paired in order, since equal seeds split the training
    products alike. Otherwise each draws its seeds independently.
    """
    if a.resampled.shape == b.resampled.shape:
        return over_seeds(Draws(a.value - b.value, a.resampled - b.resampled))
    first = over_seeds(a)
    second = drawn_seeds(b, np.random.default_rng(2))
    return Draws(first.value - second.value, first.resampled - second.resampled)


def percentile_estimate(value: float, resampled: Float[np.ndarray, " B"]) -> Estimate:
    """The percentile interval. It excludes 0 exactly where `two_sided_p` is below 0.05."""
    low = np.percentile(resampled, _TAILS[0], method="lower")
    high = np.percentile(resampled, _TAILS[1], method="higher")
    return Estimate(float(value), float(low), float(high))


def two_sided_p(resampled: Float[np.ndarray, " B"]) -> float:
    """Twice the share of resamples on the rarer side of 0 (Davison and Hinkley 1997).

    Resamples of exactly 0 count for both sides. Where all lie on one side, p can be smaller than
    their number can show, and is taken from a normal distribution of the same spread.
    """
    rarer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p = 2 * (1 + rarer) / (1 + len(resampled))
    if rarer == 0 and (spread := resampled.std()) > 0:
        p = min(p, 2 * stats.norm.sf(abs(resampled.mean()) / spread))
    return min(1.0, float(p))


def unbiased_estimate(value: float, resampled: Float[np.ndarray, " B"]) -> Estimate:
    """The percentile interval minus the bootstrap's estimate of its bias, at least 0.

    It is for the calibration error, which noise can only raise, and resampling raises again.
    """
    low, high = np.percentile(resampled, _TAILS) - (resampled.mean() - value)
    return Estimate(float(value), max(0.0, float(low)), max(0.0, float(high)))


def means_of_signs(values: Num[np.ndarray, "m n"] | Bool[np.ndarray, "m n"]) -> Draws:
    """Means of m rows of -1, 0 and 1 over n products, and over those of each resample.

    Drawing n products with replacement is the same as drawing the counts of their few distinct
    columns from a multinomial distribution, which is much faster.
    """
    # Each column becomes one number: its digits to base 3, or beyond 40 digits a hash.
    code = np.int64(3) ** np.arange(len(values)) @ values.astype(np.int64)
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    n, columns = int(counts.sum()), values[:, first].astype(np.float64).T
    rng = np.random.default_rng(0)
    drawn = np.concatenate(
        [rng.multinomial(n, counts / n, size=_BLOCK) @ columns for _ in range(RESAMPLES // _BLOCK)]
    )
    return Draws(counts @ columns / n, drawn / n)


def share_estimate(successes: int, n: int) -> Estimate:
    """A share with its Wilson score interval (Wilson 1927)."""
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high))


def mcnemar_p(fixed: int, broke: int) -> float:
    """The two-sided p of the exact McNemar test.

    Its null hypothesis: of the products that only one of two models gets right, half are each's.
    """
    return float(stats.binomtest(fixed, fixed + broke, 0.5).pvalue) if fixed + broke else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), valid however the tests depend."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return np.minimum(corrected, 1).tolist()


def products_needed(fixed: float | int, broke: float | int, n: int) -> int | None:
    """The products that a McNemar test at 5 % needs to confirm such a difference in 4 of 5 cases.

    By Connor (1987), and enough for the 6 one-sided changes without which the exact test can't
    reject. None where there is no difference.
    """
    change, difference = (fixed + broke) / n, abs(fixed - broke) / n
    if difference == 0:
        return None
    z_level, z_power = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    spread = math.sqrt(max(change - difference**2, 0))
    needed = ((z_level * math.sqrt(change) + z_power * spread) / difference) ** 2
    return math.ceil(max(needed, 6 / change))
