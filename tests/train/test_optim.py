from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from product_mil.train.optim import learning_rate_schedule, make_optimizer, rate_factors

PARAMETERS = {
    "backbone/dense/kernel": jnp.asarray([[1.0, -2.0], [3.0, 0.5]]),
    "backbone/norm/scale": jnp.asarray([1.0, 1.0]),
    "head/classify/kernel": jnp.asarray([[2.0], [-1.0]]),
    "head/classify/bias": jnp.asarray([0.3]),
}
ONES = jax.tree.map(jnp.ones_like, PARAMETERS)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMETERS)


def optimizer(name: str = "adamw", **changes: Any) -> optax.GradientTransformation:
    settings = {
        "learning_rate": 0.1,
        "num_steps": 10,
        "warmup_fraction": 0.0,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
        **changes,
    }
    return make_optimizer(name, **settings)  # type: ignore[arg-type]


def updates(rule: optax.GradientTransformation, gradients: list[dict]) -> list[dict]:
    state, found = rule.init(PARAMETERS), []
    for gradient in gradients:
        update, state = rule.update(gradient, state, PARAMETERS)
        found.append(jax.tree.map(np.asarray, update))
    return found


def test_schedule_by_hand() -> None:
    rate: Any = learning_rate_schedule(0.5, num_steps=100, warmup_fraction=0.1)
    np.testing.assert_allclose(rate(0), 0.5 / 11, rtol=1e-6)
    np.testing.assert_allclose(rate(5), 0.5 / 11 + (0.5 - 0.5 / 11) / 2, rtol=1e-6)
    np.testing.assert_allclose(rate(10), 0.5, rtol=1e-6)
    np.testing.assert_allclose(rate(55), 0.25, rtol=1e-5)
    np.testing.assert_allclose(rate(100), 0.0, atol=1e-8)
    values = [float(rate(step)) for step in range(101)]
    assert values.index(max(values)) == 10
    assert min(values[:100]) > 0


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 0.99])
def test_short_schedules(num_steps: int, warmup_fraction: float) -> None:
    rate: Any = learning_rate_schedule(0.5, num_steps=num_steps, warmup_fraction=warmup_fraction)
    values = [float(rate(step)) for step in range(num_steps)]
    assert all(0 < value <= 0.5 for value in values)


@pytest.mark.parametrize("name", ["adamw", "nadamw", "sgd"])
def test_weight_decay_touches_kernels_only(name: str) -> None:
    """Without a gradient, what moves is decay: rate x decay x kernel."""
    (found,) = updates(optimizer(name, weight_decay=0.25), [ZEROS])
    for path, value in PARAMETERS.items():
        # SGD's Nesterov momentum adds 0.9 of the first step to it.
        factor = -0.1 * 0.25 * (1.9 if name == "sgd" else 1) if path.endswith("kernel") else 0
        np.testing.assert_allclose(found[path], factor * value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["adamw", "nadamw", "sgd"])
def test_each_optimizer_steps_downhill(name: str) -> None:
    for found in updates(optimizer(name), [ONES, ONES]):
        for path, update in found.items():
            assert (update < 0).all(), path


def test_optimizers_differ() -> None:
    rng = np.random.default_rng(0)
    gradients = [
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), PARAMETERS)
        for _ in range(3)
    ]
    last = {name: updates(optimizer(name), gradients)[-1] for name in ("adamw", "nadamw", "sgd")}
    path = "backbone/dense/kernel"
    assert np.abs(last["adamw"][path] - last["nadamw"][path]).max() > 1e-4
    assert np.abs(last["adamw"][path] - last["sgd"][path]).max() > 1e-4


def test_adamw_first_step_by_hand() -> None:
    (found,) = updates(optimizer(), [jax.tree.map(lambda x: 3 * x, ONES)])
    np.testing.assert_allclose(found["head/classify/bias"], -0.1, rtol=1e-5)


def test_clip_norm_bounds_the_whole_gradient() -> None:
    norm = 3.0  # the square root of 9 ones
    (plain,) = updates(optimizer("sgd"), [ONES])
    (clipped,) = updates(optimizer("sgd", clip_norm=0.5), [ONES])
    (loose,) = updates(optimizer("sgd", clip_norm=100.0), [ONES])
    for path, update in plain.items():
        np.testing.assert_allclose(clipped[path], update * 0.5 / norm, rtol=1e-5)
        np.testing.assert_allclose(loose[path], update, rtol=1e-6)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown optimizer"):
        optimizer("adam")


def test_rates_fall_from_the_head_towards_the_image() -> None:
    """A normalisation goes with what it normalises; by hand."""
    blocks = ("stem", "stem_norm", "blocks/0", "blocks/1", "blocks/10", "last", "last_norm")
    paths = [f"backbone/{block}/kernel" for block in blocks] + ["head/classify/kernel"]
    found = rate_factors(paths, blocks, 0.5)
    assert found is not None
    assert list(found.values()) == [1 / 32, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / 2, 1]
    assert list(found) == paths
    assert rate_factors(paths, blocks, 1.0) is None


def test_factors_multiply_the_whole_step() -> None:
    """Its weight decay too, and after the gradient was clipped."""
    factors = rate_factors(PARAMETERS, ("dense", "dense_norm", "norm"), 0.5)
    assert factors is not None
    settings: Any = {"weight_decay": 0.1, "clip_norm": 1.0}
    plain = updates(optimizer(**settings), [ONES, ONES])
    scaled = updates(optimizer(**settings, rate_factors=factors), [ONES, ONES])
    for before, after in zip(plain, scaled, strict=True):
        for path, factor in {**dict.fromkeys(PARAMETERS, 1.0), **factors}.items():
            np.testing.assert_allclose(after[path], factor * before[path], rtol=1e-6)
    assert factors["backbone/dense/kernel"] == 0.25
