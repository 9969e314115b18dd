import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from product_mil.compare.statistics.tests import (
    Draws,
    Resampler,
    drawn_seeds,
    holm,
    mcnemar_p,
    means_of_signs,
    percentile_estimate,
    products_needed,
    seeds_difference,
    share_estimate,
    two_sided_p,
    unbiased_estimate,
)


@pytest.mark.parametrize(("fixed", "broke"), [(0, 0), (1, 0), (5, 0), (9, 3), (76, 16), (3, 3)])
def test_mcnemar_as_statsmodels(fixed: int, broke: int) -> None:
    expected: Any = mcnemar([[50, fixed], [broke, 50]], exact=True)
    p = expected.pvalue if fixed + broke else 1.0
    assert mcnemar_p(fixed, broke) == pytest.approx(p, abs=1e-12)


def test_mcnemar_by_hand() -> None:
    """Five changes, all one way: 2 / 2^5."""
    assert mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p(2, 1) == 1.0


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (188, 400), (1, 3)])
def test_wilson_as_statsmodels(hits: int, n: int) -> None:
    low, high = proportion_confint(hits, n, method="wilson")
    assert share_estimate(hits, n) == pytest.approx((hits / n, low, high), abs=1e-12)


def test_holm_as_statsmodels() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005, 0.9, 0.04]
    expected: Any = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, atol=1e-12)
    assert holm([]) == []


def test_products_needed() -> None:
    # Connor (1987) by hand: 10 % change, 6 % the one way and 4 % the other.
    z = (1.959964 * math.sqrt(0.1) + 0.841621 * math.sqrt(0.1 - 0.02**2)) / 0.02
    assert products_needed(60, 40, 1000) == math.ceil(z**2)
    assert products_needed(5, 5, 100) is None
    assert products_needed(0, 0, 100) is None
    # Every product changes: 1 would do by the formula, but the exact test needs six.
    assert products_needed(10, 0, 10) == 6


def test_products_needed_gives_the_power() -> None:
    """Simulated: that many products show the difference in about 80 % of experiments."""
    n = products_needed(90, 50, 1000)
    assert n is not None
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(n, [0.09, 0.05, 0.86], size=2000)
    seen = np.mean([mcnemar_p(int(a), int(b)) < 0.05 for a, b, _ in drawn])
    assert seen == pytest.approx(0.8, abs=0.04)


def test_means_of_signs_as_scipy() -> None:
    """Two rows that depend on each other, and their difference."""
    rng = np.random.default_rng(0)
    first = rng.choice([-1, 0, 1], size=500, p=[0.05, 0.75, 0.2])
    values = np.stack([first, np.where(rng.random(500) < 0.8, first, 0)])
    found = means_of_signs(values)
    np.testing.assert_allclose(found.value, values.mean(1))
    for row, resampled in (
        (values[0], found.resampled[:, 0]),
        (values[0] - values[1], found.resampled[:, 0] - found.resampled[:, 1]),
    ):
        expected = stats.bootstrap(
            (row,), np.mean, method="percentile", n_resamples=4000, rng=rng
        ).confidence_interval
        assert percentile_estimate(0.0, resampled)[1:] == pytest.approx(expected, abs=0.004)


def test_means_of_signs_of_equal_values() -> None:
    found = means_of_signs(np.zeros((3, 9), bool))
    assert not found.value.any()
    assert not found.resampled.any()


def test_means_of_very_many_rows() -> None:
    """More than one number has digits for."""
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (60, 50))
    np.testing.assert_allclose(means_of_signs(values).value, values.mean(1), atol=1e-12)


def test_p_agrees_with_the_interval() -> None:
    """Below 0.05 just where the interval excludes 0, at any place of the resamples."""
    drawn = np.random.default_rng(0).normal(size=4000)
    places = [0, 50, *range(95, 105), 2000, *range(3895, 3905), 3999]
    seen = set()
    for resampled in (drawn, np.round(drawn, 1)):
        for at in np.sort(resampled)[places].tolist():
            found = percentile_estimate(0.0, resampled - at)
            excludes = found.low > 0 or found.high < 0
            seen.add(excludes)
            assert (two_sided_p(resampled - at) < 0.05) == excludes
    assert seen == {True, False}


def test_p_by_hand() -> None:
    assert two_sided_p(np.array([1.0, 2, 3, -1])) == pytest.approx(2 * 2 / 5)
    assert two_sided_p(np.zeros(9)) == 1
    assert two_sided_p(np.ones(39)) == pytest.approx(2 / 40)
    # Beyond the number of resamples: 8 standard deviations.
    far = np.random.default_rng(0).normal(8, 1, 4000)
    assert two_sided_p(far) == pytest.approx(1.2e-15, rel=3)
    assert two_sided_p(-far) == two_sided_p(far)


@pytest.mark.parametrize("max_units", [20_000, 600])
def test_resampler_as_scipy(max_units: int) -> None:
    """Also where products are first added up in groups (of 3 or 4)."""
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, size=2000)
    resampler = Resampler(2000, max_units=max_units)
    draws = resampler.means(resampler.sums(values))
    found = percentile_estimate(draws.value[0], draws.resampled[:, 0])
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    width = expected.high - expected.low
    assert found[1:] == pytest.approx(expected, abs=0.1 * width)


def test_resampler_pairs_and_groups() -> None:
    """The same values give the same draws; sums by group are those of bincount."""
    rng = np.random.default_rng(2)
    values, group = rng.normal(size=300), rng.integers(0, 4, 300)
    resampler = Resampler(300, resamples=50)
    first, again = (resampler.means(resampler.sums(values)).resampled for _ in range(2))
    np.testing.assert_array_equal(first, again)
    by_group = resampler.means(resampler.sums_by(values, group, 4))
    np.testing.assert_allclose(by_group.value, np.bincount(group, values, 4) / 300)
    np.testing.assert_allclose(by_group.resampled.sum(1), first[:, 0])


def test_unbiased_estimate() -> None:
    """Draws that lie 0.02 too high are moved back; nothing falls below 0."""
    resampled = np.linspace(0.0, 0.06, 1001)
    found = unbiased_estimate(0.01, resampled)
    assert found == pytest.approx((0.01, 0.0, 0.0585 - 0.02), abs=1e-9)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """1,000 simulated pairs of runs: 95 % +- 2 of the intervals hold the true difference.

    Two runs share most of what makes a product easy, as trained ones do; accuracy and
    log-likelihood both depend on it.
    """
    rng = np.random.default_rng(3)
    n, simulations = 400, 1000
    resampler = Resampler(n)
    truth_rng = np.random.default_rng(4)

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
        ease = rng.normal(0.3, 1.0, n)
        a, b = ease + 0.35 + rng.normal(0, 0.8, n), ease + rng.normal(0, 0.8, n)
        nll_a, nll_b = np.log1p(np.exp(-2 * a)), np.log1p(np.exp(-2 * b))
        return a > 0, b > 0, nll_a, nll_b

    true_a, true_b, nll_a, nll_b = draw(truth_rng, 20_000_000)
    truths = {
        "accuracy": true_a.mean(),
        "accuracy difference": true_a.mean() - true_b.mean(),
        "nll": nll_a.mean(),
        "nll difference": nll_a.mean() - nll_b.mean(),
    }
    covered = dict.fromkeys(truths, 0)
    for _ in range(simulations):
        right_a, right_b, nll_a, nll_b = draw(rng, n)
        columns = [right_a, right_b, nll_a, nll_b]
        draws = resampler.means(np.concatenate([resampler.sums(c) for c in columns], 1))

        def of(*signs: float, draws: tuple = draws) -> tuple[float, float, float]:
            return percentile_estimate(draws[0] @ signs, draws[1] @ np.array(signs))

        found = {
            "accuracy": share_estimate(int(right_a.sum()), n),
            "accuracy difference": of(1, -1, 0, 0),
            "nll": of(0, 0, 1, 0),
            "nll difference": of(0, 0, 1, -1),
        }
        for name, (_, low, high) in found.items():
            covered[name] += low <= truths[name] <= high
    shares = {name: count / simulations for name, count in covered.items()}
    print(shares)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_seeds_are_drawn_as_products_are() -> None:
    """Two sources of variance that are known: they add up, and without one the other is left."""
    rng = np.random.default_rng(0)
    products, seeds = 400, 3
    value = np.linspace(-0.1, 0.1, seeds)[:, None] + rng.normal(size=products)[None]
    resampler = Resampler(products)

    def spread(values: np.ndarray) -> float:
        columns = np.concatenate([resampler.sums(row) for row in values], 1)
        drawn = drawn_seeds(resampler.means(columns), np.random.default_rng(1))
        np.testing.assert_allclose(drawn.value, values.mean())
        assert drawn.resampled.shape == (4000, 1)
        return float(drawn.resampled.std())

    of_seeds = value.mean(1).std(ddof=1) / np.sqrt(seeds)
    of_products = value.mean(0).std() / np.sqrt(products)
    assert of_seeds == pytest.approx(of_products, rel=0.2)  # neither hides the other
    assert spread(value) == pytest.approx(np.hypot(of_seeds, of_products), rel=0.05)
    same = np.repeat(value[:1], seeds, 0)
    assert spread(same) == pytest.approx(same.std() / np.sqrt(products), rel=0.05)
    constant = np.repeat(value.mean(1, keepdims=True), products, 1)
    assert spread(constant) == pytest.approx(of_seeds, rel=0.05)
    assert spread(value[:1]) == pytest.approx(of_products, rel=0.05)  # one says nothing of others


def test_seeds_that_pair_are_drawn_together() -> None:
    """What two methods share of a seed cancels in their difference, unless their seeds differ."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.1, 4)
    of_seeds = np.tile(shared, (4000, 1))
    a, b = Draws(shared + 0.02, of_seeds + 0.02), Draws(shared, of_seeds)
    found = seeds_difference(a, b)
    np.testing.assert_allclose(found.resampled, 0.02, atol=1e-12)
    fewer = seeds_difference(a, Draws(b.value[:3], b.resampled[:, :3]))
    expected = np.hypot(shared.std(ddof=1) / 2, shared[:3].std(ddof=1) / np.sqrt(3))
    assert fewer.resampled.std() == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_intervals_of_several_seeds_cover_the_truth() -> None:
    """Three seeds of each of two methods, that differ by luck: not too narrow, and not far off.

    Over products alone (of these seeds) the intervals would hold the truth in about 86 of 100.
    """
    rng = np.random.default_rng(5)
    n, seeds, of_seed, simulations = 400, 3, 0.05, 1000
    resampler = Resampler(n, resamples=1000)
    spread = np.sqrt(1 + 2 * 0.4**2 + of_seed**2)
    truth = stats.norm.cdf(0.4 / spread) - stats.norm.cdf(0.3 / spread)
    covered = {"both": 0, "products": 0}
    for _ in range(simulations):
        ease = rng.normal(0.3, 1.0, n)

        def draws(gain: float, ease: np.ndarray = ease) -> Draws:
            of_method = ease + gain + rng.normal(0, 0.4, n)
            luck = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, 0.4, (seeds, n))
            right = of_method + luck > 0
            return resampler.means(np.concatenate([resampler.sums(r) for r in right], 1))

        a, b = draws(0.1), draws(0.0)
        for name, resampled in (
            ("both", seeds_difference(a, b).resampled[:, 0]),
            ("products", (a.resampled - b.resampled).mean(1)),
        ):
            _, low, high = percentile_estimate(0.0, resampled)
            covered[name] += int(low <= truth <= high)
    shares = {name: count / simulations for name, count in covered.items()}
    print(shares)
    assert 0.93 <= shares["both"] <= 0.99
    assert shares["products"] < 0.9
