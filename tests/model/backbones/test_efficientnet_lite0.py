"""EfficientNet-Lite0 with its ImageNet weights equals PyTorch's (test_parity.py: Keras, random)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.model.backbones.efficientnet_lite0 import EfficientNetLite0
from product_mil.model.layers.inverted_residual import InvertedResidual
from product_mil.model.registry import backbone, blocks_of
from product_mil.model.weights.load import ImageNetTop, load_weights
from product_mil.model.weights.published import published_file

SPEC = backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def pretrained() -> tuple[EfficientNetLite0, ImageNetTop]:
    module = EfficientNetLite0(rngs=nnx.Rngs(0))
    top = load_weights(module, SPEC, published_file(SPEC, with_top=True)).top
    assert top is not None
    return module, top


def pixels_of(height: int, width: int) -> np.ndarray:
    i, j, c = np.ogrid[:height, :width, :3]
    values = i * 7 // 3 + j * 5 // 2 + 40 * c + (i // 9) * (j // 13) * 11
    return (values % 256).astype(np.uint8)[None]


# timm 1.0.31's tf_efficientnet_lite0 on torch 2.13.0 with the package's weights and the pixels
# above, (x - 127) / 128: the five largest logits and the first six.
GOLDEN = {
    (180, 180): (
        {906: 9.41677, 522: 5.62524, 574: 5.27932, 615: 5.17208, 782: 5.15512},
        [-0.47686, 2.00645, -1.12627, -1.53447, -1.21709, 0.76053],
    ),
    (97, 64): (
        {906: 10.65473, 616: 8.93251, 998: 7.13238, 451: 6.82561, 506: 6.4622},
        [0.69302, 1.2033, -1.94908, -1.87782, -1.34685, -1.77985],
    ),
}


@pytest.mark.parametrize("size", GOLDEN, ids=str)
def test_golden_logits_of_the_published_weights(pretrained, size):
    module, top = pretrained
    largest, first = GOLDEN[size]
    pixels = pixels_of(*size)
    if size == (180, 180):
        assert pixels.sum() == 12_421_542  # the same image as PyTorch saw
    embedding = jax.jit(lambda m, x: m(x, use_running_statistics=True))(module, pixels)
    logits = (np.asarray(embedding) @ top.kernel + top.bias)[0]
    tolerance = 1e-5 * max(largest.values())
    assert list(np.argsort(-logits)[:5]) == list(largest)
    np.testing.assert_allclose(logits[list(largest)], list(largest.values()), atol=tolerance)
    np.testing.assert_allclose(logits[:6], first, atol=tolerance)


def test_pixels_are_scaled_as_in_training(pretrained):
    module, _ = pretrained
    pixels = jnp.asarray(np.array([0, 127, 255], np.uint8).reshape(1, 1, 1, 3))
    np.testing.assert_array_equal(module.scaled(pixels)[0, 0, 0], [-127 / 128, 0, 1])
    exact = EfficientNetLite0(rngs=nnx.Rngs(0), dtype=jnp.bfloat16).scaled(pixels)
    np.testing.assert_array_equal(exact[0, 0, 0].astype(np.float32), [-127 / 128, 0, 1])


@pytest.mark.parametrize(
    ("size", "before"),
    # TensorFlow pads the far side when the sum is odd: 5x5, stride 2, of even sizes 1 and 2.
    [(90, 1), (45, 2), (6, 1), (5, 2), (1, 2)],
)
def test_stride_2_pads_as_tensorflow_does(size, before):
    block = InvertedResidual(
        2, 3, stride=2, momentum=0.9, kernel_size=5, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    random = np.random.default_rng(0)
    kernel = random.normal(size=(5, 5, 12)).astype(np.float32)
    block.depthwise.kernel[...] = jnp.asarray(kernel)
    x = random.normal(size=(1, size, 4, 12)).astype(np.float32)
    got = np.asarray(block.depthwise(jnp.asarray(x)))
    assert got.shape == (1, -(-size // 2), 2, 12)
    padded = np.pad(x, ((0, 0), (before, 5), (1, 5), (0, 0)))
    for row in range(got.shape[1]):
        for column in range(2):
            seen = padded[0, 2 * row : 2 * row + 5, 2 * column : 2 * column + 5]
            wanted = (seen * kernel).sum((0, 1))
            np.testing.assert_allclose(got[0, row, column], wanted, rtol=1e-4, atol=1e-5)


def test_every_leaf_is_set_and_the_size_is_the_published_one(pretrained):
    module, top = pretrained
    fresh = EfficientNetLite0(rngs=nnx.Rngs(0))
    states: list[Any] = [nnx.as_pure(nnx.state(each)) for each in (module, fresh)]
    pairs = list(zip(*map(jax.tree.leaves, states), strict=True))
    assert len(pairs) == 245
    assert all(np.any(one != other) for one, other in pairs)
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))]
    assert sum(sizes) + top.kernel.size + top.bias.size == 4_652_008


def test_blocks_that_a_stage_can_train_from():
    names = blocks_of(SPEC)
    assert names[:3] == ("stem", "stem_norm", "blocks/0")
    assert names[-3:] == ("blocks/15", "last", "last_norm")
