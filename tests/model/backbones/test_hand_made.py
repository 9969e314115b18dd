"""Hand-made features: what they say of images whose answer is known."""

import numpy as np
import pytest
from flax import nnx

from product_mil.errors import UserError
from product_mil.model.backbones.hand_made import (
    COLOUR_CELLS,
    COLOUR_DIM,
    EMBEDDING_DIM,
    HOG_DIM,
    HSV_BINS,
    ORIENTATIONS,
    describe,
)
from product_mil.model.registry import backbone


def parts(row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    colour, edges, texture = np.split(row, [COLOUR_DIM, COLOUR_DIM + HOG_DIM])
    return colour.reshape(COLOUR_CELLS**2, -1), edges.reshape(-1, ORIENTATIONS), texture


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    red_over_blue = np.zeros((90, 90, 3), np.uint8)
    red_over_blue[:45, :, 0] = 255
    red_over_blue[45:, :, 2] = 255
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[:, (np.arange(90) // 6) % 2 == 0] = 255
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    return np.stack([red_over_blue, stripes, noise])


def test_values(images: np.ndarray):
    rows = describe(images)
    assert rows.shape == (3, EMBEDDING_DIM) == (3, backbone("hand_made").embedding_dim)
    assert rows.dtype == np.float32
    colour, _, texture = parts(rows[0])
    # Squares are shares: 1 in each cell of the grid.
    np.testing.assert_allclose((colour**2).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose((texture.reshape(4, -1) ** 2).sum(1), 1, atol=1e-6)
    hues, saturations, values = HSV_BINS
    red, blue = (
        (int(hue * hues) * saturations + saturations - 1) * values + values - 1
        for hue in (0.0, 2 / 3)
    )
    np.testing.assert_allclose(colour[0, red], 1, atol=1e-6)  # the upper left cell
    np.testing.assert_allclose(colour[-1, blue], 1, atol=1e-6)
    # Vertical stripes have horizontal gradients: nothing lies in the opposite orientations.
    edges = parts(rows[1])[1].sum(0)
    assert edges[0] + edges[-1] > 10 * edges[ORIENTATIONS // 2 - 1 : ORIENTATIONS // 2 + 2].sum()


def test_neighbours_change_no_bit(images: np.ndarray):
    np.testing.assert_array_equal(describe(images)[2], describe(images[2:])[0])
    assert describe(images[:0]).shape == (0, EMBEDDING_DIM)


def test_it_is_no_net(images: np.ndarray):
    spec = backbone("hand_made")
    with pytest.raises(UserError, match="embedding_cache"):
        spec.build(rngs=nnx.Rngs(0))(images, use_running_statistics=True)


def test_without_scikit_image_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'product_mil\[baselines\]'"):
        describe(np.zeros((1, 8, 8, 3), np.uint8))
