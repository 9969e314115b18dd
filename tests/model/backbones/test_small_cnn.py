import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.model.backbones.small_cnn import SmallCNN, conv3x3, means, resize
from product_mil.model.registry import backbone


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 9, 9, 3), np.uint8)
    return coarse.repeat(20, axis=1).repeat(20, axis=2)


@pytest.mark.parametrize(("size", "stride"), [(15, 2), (30, 2), (9, 1)])
def test_convolution_equals_the_library_one(size: int, stride: int):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, size, size, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 6)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv3x3(x, kernel, stride), expected, atol=2e-5)


def test_resize_takes_block_means_and_agrees_with_any_other_size(photos: np.ndarray):
    small = resize(jnp.asarray(photos), 60)
    np.testing.assert_allclose(small[0, 0, 0], photos[0, :3, :3].mean((0, 1)), atol=1e-4)
    odd = resize(jnp.asarray(photos[:, :175, :175]), 60)
    assert np.abs(np.asarray(odd).mean((1, 2)) - photos[:, :175, :175].mean((1, 2))).max() < 2


def test_means_of_a_grid_by_hand():
    x = jnp.arange(2 * 4 * 4 * 1, dtype=jnp.float32).reshape(2, 4, 4, 1)
    np.testing.assert_allclose(means(x, 1)[:, 0], [7.5, 23.5])
    np.testing.assert_allclose(means(x, 2)[0], [2.5, 4.5, 10.5, 12.5])
    with pytest.raises(TypeError):
        means(x, 3)


def test_the_shallow_net_keeps_where_it_saw_something(photos: np.ndarray):
    """Two halves of a photo exchanged: as good as nothing to a global mean."""
    spec = backbone("cnn_1")
    x = jnp.asarray(photos[:1], jnp.float32)
    exchanged = jnp.roll(x, 60, axis=2)
    net = spec.build(rngs=nnx.Rngs(0))
    one, other = (net(each, use_running_statistics=True)[0] for each in (x, exchanged))
    assert one.shape == (spec.embedding_dim,)
    cells, moved = one.reshape(3, 3, 48), other.reshape(3, 3, 48)
    size = float(jnp.abs(cells).mean())
    assert float(jnp.abs(cells - moved).mean()) > 0.2 * size
    # The columns of cells have moved along, but for what lies at their borders.
    assert float(jnp.abs(jnp.roll(cells, 1, axis=1) - moved).mean()) < 0.1 * size


@pytest.mark.slow
def test_exposure_changes_little(photos: np.ndarray):
    model = SmallCNN(rngs=nnx.Rngs(0))
    bright = photos.astype(np.float32)
    pale = model(jnp.asarray(bright), use_running_statistics=True)
    dark = model(jnp.asarray(bright * 0.5 + 20), use_running_statistics=True)
    assert float(jnp.abs(pale - dark).max()) < 0.03 * float(jnp.abs(pale).max())
    assert float(jnp.abs(pale[0] - pale[1]).max()) > 0.1 * float(jnp.abs(pale).max())


def test_padding_changes_no_bit(photos: np.ndarray):
    mask = jnp.array([True, True, True, False, False])

    def run(pixels: np.ndarray) -> tuple[jax.Array, object]:
        model = SmallCNN(rngs=nnx.Rngs(0))
        embeddings = model(jnp.asarray(pixels), use_running_statistics=False, mask=mask)
        return embeddings[:3], nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    garbage = photos.astype(np.float32)
    garbage[3:] = np.nan
    one, two = run(photos.astype(np.float32)), run(garbage)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_statistics_move_only_in_training(photos: np.ndarray):
    model = SmallCNN(rngs=nnx.Rngs(0))
    x = jnp.asarray(photos)
    model(x, use_running_statistics=True)
    assert float(jnp.abs(model.blocks[3].norm.mean[...]).max()) == 0
    model(x, use_running_statistics=False)
    assert float(jnp.abs(model.blocks[3].norm.mean[...]).max()) > 0
    alone = model(x[:1], use_running_statistics=True)
    np.testing.assert_allclose(model(x, use_running_statistics=True)[:1], alone, atol=1e-5)
