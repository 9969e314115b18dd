"""The results of a comparison as plain values, for each entry and for each pair."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from product_mil.compare.statistics.tests import Estimate


class Spread(NamedTuple):
    """A figure for each seed, and how far these differ."""

    values: tuple[float, ...]
    standard_deviation: float


class GroupAccuracy(NamedTuple):
    """The accuracy on the n products of a group."""

    n: int
    accuracy: Estimate


class ConfidenceBin(NamedTuple):
    """Answers of similar confidence, over all seeds."""

    n: int
    confidence: float  # their mean
    accuracy: Estimate


@dataclass(frozen=True)
class Scores:
    """All figures of one entry."""

    name: str
    how: str  # in words: its pooling, or its rule
    rule_of: str | None  # the run whose images' probabilities it fuses otherwise
    seeds: int
    metrics: Mapping[str, Estimate]  # `accuracy` and those of `METRICS` that are known
    temperature: float | None
    groups: Mapping[str, Mapping[str, GroupAccuracy]]  # by the names of `groups_of`
    between_seeds: Mapping[str, Spread]  # by metric; empty with one seed
    reliability: Mapping[str, tuple[ConfidenceBin, ...]]  # by the name of the confidence

    @property
    def accuracy(self) -> Estimate:
        """The share of first guesses that are right."""
        return self.metrics["accuracy"]

    @property
    def temperature_hurts(self) -> bool:
        """Whether the fitted temperature makes the likelihood worse; False without one."""
        calibrated = self.metrics.get("calibrated_nll")
        return calibrated is not None and calibrated.value > self.metrics["nll"].value


@dataclass(frozen=True)
class Change:
    """How the accuracy of a differs from that of b on n products."""

    n: int
    estimate: Estimate
    p: float  # goes with the interval
    mcnemar_p: float  # of the exact test; of several seeds the largest
    fixed: float  # products that a alone gets right; of several seeds the mean
    broke: float  # that b alone does
    holm_p: float | None = None  # p, corrected for how many such changes there are

    @property
    def value(self) -> float:
        """Accuracy of a minus accuracy of b."""
        return self.estimate.value

    @property
    def ci95(self) -> tuple[float, float]:
        """The interval of `value`."""
        return self.estimate.ci95

    @property
    def is_decided(self) -> bool:
        """Whether test and interval both say that there is a difference."""
        return self.p < 0.05 and (self.estimate.low > 0 or self.estimate.high < 0)

    def turned(self) -> "Change":
        """The same as b minus a."""
        value, low, high = self.estimate
        turned = Estimate(0 - value, 0 - high, 0 - low)
        return replace(self, estimate=turned, fixed=self.broke, broke=self.fixed)


@dataclass(frozen=True)
class Difference:
    """The difference a minus b between two entries."""

    a: str
    b: str
    change: Change  # on all products
    metrics: Mapping[str, Estimate]  # those of `METRICS` except the accuracy
    products_needed: int | None  # to confirm a change of this size; None without a change
    between_seeds: Spread | None  # of the pairs of seeds; None with one seed
    mcnemar_p_of_seeds: tuple[float, ...]
    groups: Mapping[str, Mapping[str, Change]]  # by the names of `groups_of`


@dataclass(frozen=True)
class Control:
    """How two entries agree on products with one image, where there is nothing to fuse."""

    change: Change
    same_guess: float  # share of these products with the same first guess
    treats_alike: bool  # whether that is enough for these products to be a control
    holds: bool  # whether they are a control and show no difference


@dataclass(frozen=True)
class Comparison:
    """The results of every entry and of every pair, on the same n products."""

    n: int
    scores: tuple[Scores, ...]  # each run, and its rules after it
    differences: tuple[Difference, ...]

    def of(self, name: str) -> Scores:
        """The figures of the entry of this name."""
        return next(scores for scores in self.scores if scores.name == name)

    def difference(self, a: str, b: str) -> Difference:
        """The difference a minus b of a pair, whose order counts."""
        return next(found for found in self.differences if (found.a, found.b) == (a, b))

    @property
    def runs(self) -> tuple[Scores, ...]:
        """The entries that are runs or files, without the rules on their probabilities."""
        return tuple(scores for scores in self.scores if scores.rule_of is None)

    def rules_of(self, run: str) -> tuple[Scores, ...]:
        """The rules on the probabilities of this run."""
        return tuple(scores for scores in self.scores if scores.rule_of == run)
