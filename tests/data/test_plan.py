import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_mil.data.plan import SequentialPlan, ShareOfPlan, ShuffledPlan, balanced_draws

CDISCOUNT_SHARES = (0.618, 0.160, 0.077, 0.145)


def cdiscount(num_products: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([1, 2, 3, 4], num_products, p=CDISCOUNT_SHARES)


def check_epoch(plan: ShuffledPlan | SequentialPlan, num_images: np.ndarray, first: int) -> None:
    """Each product once, whole, within the slots of its shard."""
    seen = []
    for step in range(first, first + plan.num_steps):
        shards = plan.positions(step)
        assert len(shards) == plan.shards
        for rows in shards:
            assert num_images[rows].sum() <= plan.image_slots
            assert len(rows) <= plan.product_slots
            seen.append(rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(num_images)))


def test_every_product_once_each_epoch_and_orders_differ() -> None:
    num_images = cdiscount(3000)
    plan = ShuffledPlan(num_images, shards=4, image_slots=32, seed=3)
    for epoch in range(3):
        check_epoch(plan, num_images, epoch * plan.num_steps)
    flat = [np.concatenate(plan.positions(epoch * plan.num_steps)) for epoch in range(2)]
    assert not np.array_equal(flat[0], flat[1])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_shares_are_the_plan_in_parts(count: int) -> None:
    """What the processes have together is the step, shard by shard."""
    num_images = cdiscount(500)
    for plan in (
        ShuffledPlan(num_images, shards=4, image_slots=16, seed=3),
        SequentialPlan(num_images, shards=4, image_slots=16),
    ):
        shares = [ShareOfPlan(plan, number, count) for number in range(count)]
        for share in shares:
            assert share.shards == 4 // count
            sizes = (share.image_slots, share.product_slots, share.num_steps)
            assert sizes == (plan.image_slots, plan.product_slots, plan.num_steps)
        for step in (0, plan.num_steps - 1, plan.num_steps):
            together = [of for share in shares for of in share.positions(step)]
            for found, wanted in zip(together, plan.positions(step), strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_shards_that_cannot_be_shared_are_refused() -> None:
    plan = SequentialPlan(cdiscount(50), shards=4, image_slots=16)
    with pytest.raises(ValueError, match="4 shards for 3 processes"):
        ShareOfPlan(plan, 0, 3)


def test_cdiscount_fills_its_slots() -> None:
    num_images = cdiscount(50_000)
    plan = ShuffledPlan(num_images, shards=8, image_slots=256, seed=0)
    assert num_images.sum() / (plan.num_steps * 8 * 256) >= 0.99
    check_epoch(plan, num_images, 0)


def test_shuffle_is_global() -> None:
    """The first step draws from all over the file, and neighbours part."""
    num_images = cdiscount(20_000)
    plan = ShuffledPlan(num_images, shards=2, image_slots=128, seed=0)
    rows = np.concatenate(plan.positions(0))
    assert np.histogram(rows, bins=4, range=(0, 20_000))[0].min() > len(rows) / 8


def test_pure_function_of_seed_and_step() -> None:
    num_images = cdiscount(500)
    plan = ShuffledPlan(num_images, shards=2, image_slots=16, seed=5)
    steps = list(range(4 * plan.num_steps))
    forwards = {step: plan.positions(step) for step in steps}
    again = ShuffledPlan(num_images, shards=2, image_slots=16, seed=5)
    for step in np.random.default_rng(0).permutation(steps):
        for a, b in zip(forwards[step], again.positions(int(step)), strict=True):
            np.testing.assert_array_equal(a, b)
    other = ShuffledPlan(num_images, shards=2, image_slots=16, seed=6)
    assert any(
        not np.array_equal(a, b) for a, b in zip(plan.positions(0), other.positions(0), strict=True)
    )


def test_pinned_rows() -> None:
    """May change with a note in the changelog only: runs under way would resume differently."""
    num_images = np.tile([1, 1, 1, 2, 4, 3, 1, 2], 50)
    plan = ShuffledPlan(num_images, shards=2, image_slots=16, seed=11)
    hasher = hashlib.sha256()
    for step in range(2 * plan.num_steps):
        for rows in plan.positions(step):
            hasher.update(len(rows).to_bytes(4, "little") + rows.astype("<i8").tobytes())
    assert hasher.hexdigest()[:16] == "1f18ecfcaa2a0ac9"


def test_pickles() -> None:
    num_images = cdiscount(300)
    plan = ShuffledPlan(num_images, shards=2, image_slots=16, seed=5)
    before = plan.positions(7)
    copy = pickle.loads(pickle.dumps(plan))
    for a, b in zip(before, copy.positions(7), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("num_images", "shards", "image_slots"),
    [
        ([1], 4, 4),
        ([4], 2, 4),
        ([4] * 9, 2, 4),
        ([3] * 101, 4, 4),  # nothing fills the last slot
        ([2] * 64, 4, 8),
        ([4, 1, 4, 1, 4, 1, 4], 1, 5),
        ([1] * 1000, 1, 256),
        ([4] * 30 + [1], 2, 7),
    ],
)
def test_edges(num_images: list[int], shards: int, image_slots: int) -> None:
    counts = np.asarray(num_images)
    shuffled = ShuffledPlan(counts, shards=shards, image_slots=image_slots, seed=0)
    check_epoch(shuffled, counts, 0)
    check_epoch(shuffled, counts, shuffled.num_steps)
    check_epoch(SequentialPlan(counts, shards=shards, image_slots=image_slots), counts, 0)


@settings(max_examples=100)
@given(
    num_images=st.lists(st.integers(0, 9), min_size=1, max_size=200),
    shards=st.integers(1, 5),
    spare=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_a_plan_covers_each_product_once(
    num_images: list[int], shards: int, spare: int, seed: int
) -> None:
    counts = np.asarray(num_images)
    slots = max(num_images) + spare + 1
    check_epoch(SequentialPlan(counts, shards=shards, image_slots=slots), counts, 0)
    with_images = counts[counts > 0]
    if len(with_images):
        shuffled = ShuffledPlan(with_images, shards=shards, image_slots=slots, seed=seed)
        for epoch in (0, 1, 7):
            check_epoch(shuffled, with_images, epoch * shuffled.num_steps)


def test_many_products_that_fill_badly_are_planned_fast() -> None:
    plan = ShuffledPlan(np.full(40_000, 3), shards=4, image_slots=4, seed=0)
    assert 10_000 <= plan.num_steps <= 10_100


@pytest.mark.parametrize("wrong", [[], [0, 1], [5, 1]])
def test_refuses_what_cannot_be_packed(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="product"):
        ShuffledPlan(np.asarray(wrong, np.int64), shards=1, image_slots=4, seed=0)


def test_sequential_keeps_order_and_products_without_images() -> None:
    counts = np.random.default_rng(1).integers(0, 5, 777)
    plan = SequentialPlan(counts, shards=3, image_slots=12)
    rows = np.concatenate([rows for s in range(plan.num_steps) for rows in plan.positions(s)])
    np.testing.assert_array_equal(rows, np.arange(777))
    check_epoch(plan, counts, 0)


def test_sequential_of_products_without_any_image() -> None:
    plan = SequentialPlan(np.zeros(100, np.int64), shards=2, image_slots=8)
    check_epoch(plan, np.zeros(100, np.int64), 0)
    assert plan.product_slots == 8


def test_sequential_of_nothing() -> None:
    assert SequentialPlan(np.zeros(0, np.int64), shards=2, image_slots=8).num_steps == 0


def test_sequential_refuses_too_many_images() -> None:
    with pytest.raises(ValueError, match="0 to 4"):
        SequentialPlan(np.asarray([1, 5]), shards=1, image_slots=4)


def test_draws_by_hand() -> None:
    """Classes of 8, 4 and 1 products: as they are, by square roots, alike; always 13 draws."""
    labels = np.repeat([0, 1, 2], [8, 4, 1])
    for power, shares in ((0.0, [8, 4, 1]), (0.5, [8**0.5, 2, 1]), (1.0, [1, 1, 1])):
        draws = balanced_draws(labels, power)
        np.testing.assert_allclose(np.bincount(labels, draws), 13 * np.divide(shares, sum(shares)))
        for label in range(3):
            assert np.ptp(draws[labels == label]) == 0


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_balanced_epochs(power: float) -> None:
    """Classes come as often as they should, each product in turn; a pure function of the step."""
    rng = np.random.default_rng(0)
    num_images = cdiscount(2000)
    labels = np.minimum(rng.geometric(0.3, 2000) - 1, 9)
    draws = balanced_draws(labels, power)
    arguments = {"shards": 2, "image_slots": 32, "seed": 5, "draws": draws, "labels": labels}
    plan = ShuffledPlan(num_images, **arguments)
    epochs = []
    for epoch in range(20):
        steps = range(epoch * plan.num_steps, (epoch + 1) * plan.num_steps)
        shards = [rows for step in steps for rows in plan.positions(step)]
        assert max(num_images[rows].sum() for rows in shards) <= 32
        assert max(map(len, shards)) <= plan.product_slots
        drawn = np.concatenate(shards)
        assert 2000 <= len(drawn) <= 2000 + 4  # each of four sizes is rounded up
        # To within one draw and that rounding, in each of four sizes.
        np.testing.assert_allclose(np.bincount(labels[drawn]), np.bincount(labels, draws), atol=8)
        epochs.append(np.bincount(drawn, minlength=2000))
    times = np.asarray(epochs)
    # Systematic sampling: the whole part always, one time more in some epochs.
    assert (times >= np.floor(draws * 0.999)).all()
    assert (times <= np.ceil(draws * 1.02 + 1e-6)).all()
    np.testing.assert_allclose(times.mean(0).mean(), draws.mean(), rtol=0.01)
    assert times[:, draws < 0.9].max() == 1
    assert (times.sum(0) > 0).mean() > 0.9
    again = ShuffledPlan(num_images, **arguments)
    for step in (57, 3, 11):
        for a, b in zip(again.positions(step), plan.positions(step), strict=True):
            np.testing.assert_array_equal(a, b)


def test_draws_of_one_each_are_every_product_once() -> None:
    num_images, labels = cdiscount(500), np.arange(500) % 7
    plan = ShuffledPlan(
        num_images, shards=2, image_slots=16, seed=1, draws=np.ones(500), labels=labels
    )
    check_epoch(plan, num_images, 0)
    check_epoch(plan, num_images, plan.num_steps)


@pytest.mark.parametrize("product_slots", [3, 8])
def test_sequential_of_a_given_shape(product_slots: int) -> None:
    for counts in ([1], [0] * 20, [4, 1, 1, 0, 4, 4]):
        num_images = np.asarray(counts, np.int64)
        plan = SequentialPlan(num_images, shards=2, image_slots=8, product_slots=product_slots)
        assert plan.product_slots == product_slots
        check_epoch(plan, num_images, 0)
