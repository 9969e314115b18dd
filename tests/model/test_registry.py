"""Every backbone in the table keeps its promises: width, masks, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.errors import UserError
from product_mil.model.registry import BACKBONES, backbone, blocks_of


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if spec.keras_layers else name
        for name, spec in BACKBONES.items()
        if spec.on_host is None and name != "none"
    ],
)
def test_embedding_statistics_and_masked_images(name):
    spec = backbone(name)
    module = spec.build(rngs=nnx.Rngs(0), dtype=jnp.float32)
    graph, parameters, statistics = nnx.split(module, nnx.Param, nnx.BatchStat)
    statistics = nnx.as_pure(statistics)

    def embed(pixels, mask, use_running_statistics):
        module = nnx.merge(graph, parameters, statistics)
        embedding = module(pixels, use_running_statistics=use_running_statistics, mask=mask)
        return embedding, nnx.as_pure(nnx.state(module, nnx.BatchStat))

    embed = jax.jit(embed, static_argnums=2)
    random = np.random.default_rng(0)
    size = max(spec.min_image_size_px, 37)
    pixels = random.integers(0, 256, (3, size + 3, size, 3), dtype=np.uint8)
    mask = np.array([True, True, False])
    embedding, new_statistics = embed(pixels, mask, False)
    assert embedding.shape == (3, spec.embedding_dim)
    assert embedding.dtype == jnp.float32
    # What the padding slot holds changes no real image's embedding and no statistic, bit by bit.
    other = np.concatenate([pixels[:2], np.full_like(pixels[:1], 255)])
    again, again_statistics = embed(other, mask, False)
    np.testing.assert_array_equal(embedding[:2], again[:2])
    jax.tree.map(np.testing.assert_array_equal, new_statistics, again_statistics)
    # Every statistic moves with batch statistics, none without.
    for old, new in zip(jax.tree.leaves(statistics), jax.tree.leaves(new_statistics), strict=True):
        assert np.any(old != new)
    _, same_statistics = embed(pixels, mask, True)
    jax.tree.map(np.testing.assert_array_equal, statistics, same_statistics)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if not spec.on_host])
def test_every_parameter_gets_a_gradient(name):
    spec = backbone(name)
    graph, *state = nnx.split(spec.build(rngs=nnx.Rngs(0)), nnx.Param, nnx.BatchStat)
    parameters, statistics = map(nnx.as_pure, state)
    random = np.random.default_rng(0)
    # Away from zero, where some residuals start: what lies before them would learn nothing yet.
    parameters = jax.tree.map(lambda leaf: leaf + random.normal(0, 0.02, leaf.shape), parameters)
    size = max(spec.min_image_size_px, 64)
    pixels = random.integers(0, 256, (4, size, size, 3), dtype=np.uint8)

    @jax.jit
    def gradient(parameters, statistics, pixels):
        def loss(parameters):
            module = nnx.merge(graph, parameters, statistics)
            embedding = module(pixels, use_running_statistics=False)
            return (embedding * jnp.linspace(-1.0, 1.0, spec.embedding_dim)[None]).sum()

        return jax.grad(loss)(parameters)

    for path, leaf in jax.tree.leaves_with_path(gradient(parameters, statistics, pixels)):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path


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
