"""MobileNetV2 equals Keras' own, on Keras' JAX backend: published weights, then random ones."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from product_mil.model.backbones.mobilenet_v2 import MobileNetV2
from product_mil.model.registry import backbone
from product_mil.model.weights.load import load_weights

SPEC = backbone("mobilenet_v2")
WITH_TOP = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
NO_TOP = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def _photos(shared, size_px: int, count: int) -> np.ndarray:
    import bson

    photos = []
    with (shared / "data" / "grocery" / "val.bson").open("rb") as file:
        for product in bson.decode_file_iter(file):
            for image in product["imgs"]:
                photo = Image.open(io.BytesIO(image["picture"])).convert("RGB")
                photos.append(np.asarray(photo.resize((size_px, size_px))))
            if len(photos) >= count:
                return np.stack(photos[:count])
    raise AssertionError("too few photos")


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 127.5 - 1.0


def _relative(got, wanted) -> float:
    return float(np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("size_px", [180, 224])
def test_published_weights_on_real_photos(keras, shared, size_px):
    weights = shared / "weights" / WITH_TOP
    pixels = _photos(shared, size_px, 8)
    net = keras.applications.MobileNetV2(
        input_shape=(size_px, size_px, 3), weights=None, classifier_activation=None
    )
    net.load_weights(weights)
    both = keras.Model(net.input, [net.layers[-2].output, net.output])
    wanted, wanted_logits = (np.asarray(a) for a in both(_scaled(pixels)))

    module = MobileNetV2(rngs=nnx.Rngs(0))
    top = load_weights(module, SPEC, weights).top
    assert top is not None
    got = np.asarray(jax.jit(_infer)(module, pixels))
    assert _relative(got, wanted) < 1e-4
    assert _relative(got @ top.kernel + top.bias, wanted_logits) < 1e-4

    without_top = MobileNetV2(rngs=nnx.Rngs(1))
    assert load_weights(without_top, SPEC, shared / "weights" / NO_TOP).top is None
    states = [nnx.as_pure(nnx.state(each)) for each in (module, without_top)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def _infer(module: MobileNetV2, pixels):
    return module(pixels, use_running_statistics=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(180, 180), (299, 299), (97, 97), (64, 75)])
def test_random_weights_in_both_modes(keras, tmp_path, size):
    """Every leaf random; the file is the one that Keras 3 writes."""
    random = np.random.default_rng(0)
    net = keras.applications.MobileNetV2(
        input_shape=(*size, 3), weights=None, include_top=False, pooling="avg"
    )
    net.set_weights([_random_like(random, variable) for variable in net.weights])
    path = tmp_path / "random.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.save(path)
    module = MobileNetV2(rngs=nnx.Rngs(0))
    load_weights(module, SPEC, path)
    pixels = random.integers(0, 256, (3, *size, 3), dtype=np.uint8)

    wanted = np.asarray(net(_scaled(pixels), training=False))
    assert _relative(jax.jit(_infer)(module, pixels), wanted) < 1e-4

    trainable = [variable.value for variable in net.trainable_variables]
    other = [variable.value for variable in net.non_trainable_variables]
    wanted, new_other = jax.jit(net.stateless_call, static_argnames="training")(
        trainable, other, _scaled(pixels), training=True
    )
    graph, state = nnx.split(module)

    @jax.jit
    def train(state, pixels):
        module = nnx.merge(graph, state)
        embedding = module(pixels, use_running_statistics=False)
        return embedding, nnx.state(module)

    got, new_state = train(state, pixels)
    assert _relative(got, np.asarray(wanted)) < 1e-4
    nnx.update(module, new_state)
    net.set_weights([np.asarray(w) for w in _in_order(net, new_other)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.save(path)
    after_keras = MobileNetV2(rngs=nnx.Rngs(0))
    load_weights(after_keras, SPEC, path)
    ours = jax.tree.leaves(nnx.as_pure(nnx.state(module, nnx.BatchStat)))
    theirs = jax.tree.leaves(nnx.as_pure(nnx.state(after_keras, nnx.BatchStat)))
    assert len(ours) == 2 * 52
    for one, two in zip(ours, theirs, strict=True):
        assert _relative(one, np.asarray(two)) < 1e-4


def _random_like(random: np.random.Generator, variable) -> np.ndarray:
    """Random values that keep activations of order one through 52 layers."""
    shape, name = variable.shape, variable.path.rsplit("/", 1)[-1]
    if name in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    if name == "kernel":  # one filter sees its taps only in a depthwise layer
        fan_in = shape[0] * shape[1] * (1 if "depthwise" in variable.path else shape[2])
        return random.normal(size=shape) * (2.0 / fan_in) ** 0.5
    return random.normal(size=shape) * 0.3


def _in_order(net, new_other) -> list:
    """`net.weights` with the non-trainable ones replaced by `new_other`."""
    replaced = {
        variable.path: value
        for variable, value in zip(net.non_trainable_variables, new_other, strict=True)
    }
    return [replaced.get(variable.path, variable.value) for variable in net.weights]


def test_one_keras_layer_for_every_module_and_the_published_size():
    module = MobileNetV2(rngs=nnx.Rngs(0))
    modules = {
        ".".join(map(str, path))
        for path, node in nnx.iter_modules(module)
        if hasattr(node, "kernel") or hasattr(node, "var")
    }
    assert modules == {layer.path for layer in SPEC.keras_layers} - {None}
    assert len(modules) == len({layer.name for layer in SPEC.keras_layers}) - 1 == 104
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))]
    assert sum(sizes) == 2_223_872  # Keras: trainable parameters without the top


@pytest.mark.slow
def test_every_parameter_gets_a_float32_gradient_in_bfloat16():
    graph, *state = nnx.split(
        MobileNetV2(rngs=nnx.Rngs(0), dtype=jnp.bfloat16), nnx.Param, nnx.BatchStat
    )
    parameters, statistics = map(nnx.as_pure, state)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)

    @jax.jit
    def gradient(parameters, statistics, pixels):
        def loss(parameters):
            module = nnx.merge(graph, parameters, statistics)
            embedding = module(pixels, use_running_statistics=False)
            assert embedding.dtype == jnp.bfloat16
            weights = jnp.linspace(-1.0, 1.0, 1280)[None]
            return (embedding.astype(jnp.float32) * weights).sum()

        return jax.grad(loss)(parameters)

    for leaf in jax.tree.leaves(gradient(parameters, statistics, pixels)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert np.any(leaf != 0)
