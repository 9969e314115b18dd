"""Every backbone in the table keeps its promises: width, masks, statistics, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.errors import UserError
from product_mil.model.registry import BACKBONES, backbone, blocks_of

KINDS = nnx.Param, nnx.BatchStat


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if spec.keras_layers else name
        for name, spec in BACKBONES.items()
        if spec.on_host is None and name != "none"
    ],
)
def test_masks_statistics_and_gradients(name):
    spec = backbone(name)
    graph, *state = nnx.split(spec.build(rngs=nnx.Rngs(0), dtype=jnp.float32), *KINDS)
    parameters, statistics = map(nnx.as_pure, state)
    random = np.random.default_rng(0)
    # Away from zero, where some residuals start: what lies before them would learn nothing yet.
    parameters = jax.tree.map(lambda leaf: leaf + random.normal(0, 0.02, leaf.shape), parameters)

    def embed(parameters, statistics, pixels, mask, use_running_statistics):
        module = nnx.merge(graph, parameters, statistics)
        embedding = module(pixels, use_running_statistics=use_running_statistics, mask=mask)
        return embedding, nnx.as_pure(nnx.state(module, nnx.BatchStat))

    @jax.jit
    def trained(parameters, statistics, pixels, mask):
        def loss(parameters):
            embedding, new_statistics = embed(parameters, statistics, pixels, mask, False)
            weights = mask[:, None] * jnp.linspace(-1.0, 1.0, spec.embedding_dim)[None]
            return (embedding * weights).sum(), (embedding, new_statistics)

        return jax.grad(loss, has_aux=True)(parameters)

    size = max(spec.min_image_size_px, 61)
    pixels = random.integers(0, 256, (5, size + 3, size, 3), dtype=np.uint8)
    mask = np.array([True, True, True, True, False])
    gradient, (embedding, new_statistics) = trained(parameters, statistics, pixels, mask)
    assert embedding.shape == (5, spec.embedding_dim)
    assert embedding.dtype == jnp.float32
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path
    # What the padding slot holds changes no real image's embedding and no statistic, bit by bit.
    other = np.concatenate([pixels[:4], np.full_like(pixels[:1], 255)])
    _, (again, again_statistics) = trained(parameters, statistics, other, mask)
    np.testing.assert_array_equal(embedding[:4], again[:4])
    jax.tree.map(np.testing.assert_array_equal, new_statistics, again_statistics)
    # Every statistic moves with batch statistics, none without.
    for old, new in zip(jax.tree.leaves(statistics), jax.tree.leaves(new_statistics), strict=True):
        assert np.any(old != new)
    infer = jax.jit(embed, static_argnums=4)
    _, same_statistics = infer(parameters, statistics, pixels, mask, True)
    jax.tree.map(np.testing.assert_array_equal, statistics, same_statistics)


def test_table_is_keyed_by_name_and_unknown_names_are_refused():
    assert all(name == spec.name for name, spec in BACKBONES.items())
    assert backbone("mobilenet_v2").embedding_dim == 1280
    with pytest.raises(UserError, match=r"'inception_v9'.*mobilenet_v2, .*small_cnn, cnn_1, "):
        backbone("inception_v9")


def test_blocks_are_named_in_the_order_in_which_an_image_passes():
    blocks = blocks_of(backbone("cnn_3"))
    assert blocks == (*(f"blocks/{i}" for i in range(4)), "refinements/0", "refinements/1")
    assert blocks_of(backbone("none")) == ()


@pytest.mark.slow
def test_blocks_of_the_pretrained_nets_that_configurations_name():
    assert blocks_of(backbone("inception_v3"))[-3:] == ("mixed_7a", "mixed_7b", "mixed_7c")
    assert blocks_of(backbone("xception"))[-5:] == ("blocks/11", "conv3", "norm3", "conv4", "norm4")
    ends = ("blocks/14", "blocks/15", "blocks/16", "last", "last_norm")
    assert blocks_of(backbone("mobilenet_v2"))[-5:] == ends
