"""The shifted depthwise convolution and the 1x1 product against XLA's own; BatchNorm by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from product_mil.model.layers.blocks import BatchNorm, Conv, DepthwiseConv
from product_mil.model.layers.convolutions import conv, conv_lax, pointwise_conv
from product_mil.model.layers.depthwise import depthwise_conv, depthwise_conv_lax
from product_mil.model.layers.spatial_pools import avg_pool_same, max_pool, max_pool_lax


def _value_and_gradients(function, *arguments, cotangent):
    def both(*arguments):
        value, pull = jax.vjp(function, *arguments)
        return value, *pull(jnp.asarray(cotangent))

    return jax.jit(both)(*arguments)


@pytest.mark.parametrize(
    ("stride", "size", "kernel_px", "padding"),
    [
        (1, (8, 7), 3, "SAME"),
        (2, (8, 9), 3, "SAME"),
        (2, (9, 9), 3, "VALID"),
        (2, (7, 6), 3, ((0, 1), (0, 1))),
        (2, (2, 1), 3, ((1, 1), (1, 1))),
        (3, (9, 8), 5, ((2, 1), (1, 1))),
        (4, (10, 9), 3, "SAME"),  # some values lie in no window
        (1, (20, 5), 3, "SAME"),  # blocks of rows, the last one not full
        (2, (39, 6), 3, "SAME"),
        (1, (5, 37), 5, "SAME"),  # blocks of columns
        (2, (6, 70), 5, "SAME"),
        (1, (7, 25), 7, "SAME"),
        (2, (6, 5), 1, "VALID"),
    ],
)
def test_depthwise_equals_the_library_form(stride, size, kernel_px, padding):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *size, 5)).astype(np.float32)
    pads = padding
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(size, (kernel_px, kernel_px), (stride, stride), padding)
    kernel = random.normal(size=(kernel_px, kernel_px, 5)).astype(np.float32)

    def library(x, kernel):
        return depthwise_conv_lax(x, kernel, stride, tuple(pads))

    def ours(x, kernel):
        return depthwise_conv(x, kernel, stride, padding)

    shape = jax.eval_shape(library, x, kernel).shape
    cotangent = random.normal(size=shape).astype(np.float32)
    wanted = _value_and_gradients(library, x, kernel, cotangent=cotangent)
    got = _value_and_gradients(ours, x, kernel, cotangent=cotangent)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def _compiled_gradient(of: int, function, *arguments) -> Any:
    gradient = jax.grad(lambda *arguments: jnp.square(function(*arguments)).sum(), of)
    return jax.jit(gradient).lower(*arguments).compile()


def test_a_depthwise_kernel_gradient_is_no_loop_over_rows():
    x, kernel = jnp.ones((2, 30, 30, 8)), jnp.ones((3, 3, 8))
    compiled = _compiled_gradient(1, lambda x, k: depthwise_conv(x, k, 1, "SAME"), x, kernel)
    assert " while(" not in compiled.as_text()


@pytest.mark.parametrize("kernel_px", [3, 5])
def test_a_strided_depthwise_input_gradient_multiplies_no_zeros(kernel_px):
    x, kernel = jnp.ones((2, 40, 40, 8)), jnp.ones((kernel_px, kernel_px, 8))
    compiled = _compiled_gradient(0, lambda x, k: depthwise_conv(x, k, 2, "SAME"), x, kernel)
    windows = 2 * 20 * 20 * 8
    # Forward and gradient: a multiplication and an addition for each tap of a window; and some.
    assert compiled.cost_analysis()["flops"] < 1.4 * (2 * 2 * kernel_px**2 * windows)


def test_depthwise_in_bfloat16_sums_in_float32():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 9, 9, 4)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(3, 3, 4)), jnp.bfloat16)
    got = depthwise_conv(x, kernel, 1, "SAME")
    exact = depthwise_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), 1, "SAME")
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(("narrow", "wide"), [(3, 8), (8, 3)])
def test_pointwise_gradients_are_those_of_the_product(narrow, wide):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 4, 5, narrow)).astype(np.float32)
    kernel = random.normal(size=(narrow, wide)).astype(np.float32)
    cotangent = random.normal(size=(2, 4, 5, wide)).astype(np.float32)
    wanted = _value_and_gradients(jnp.matmul, x, kernel, cotangent=cotangent)
    got = _value_and_gradients(pointwise_conv, x, kernel, cotangent=cotangent)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("narrow", "wide"), [(3, 8), (8, 3)])
def test_a_pointwise_kernel_gradient_turns_no_map(narrow, wide):
    x, kernel = jnp.ones((2, 4, 5, narrow)), jnp.ones((narrow, wide))
    text = _compiled_gradient(1, pointwise_conv, x, kernel).as_text()
    places = 2 * 4 * 5
    assert not any(f"f32[{features},{places}]" in text for features in (narrow, wide))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3), 1, "VALID"),
        ((3, 1), 1, "VALID"),
        ((2, 2), 2, "VALID"),
        ((3, 3), 1, "SAME"),
        ((1, 1), 2, "SAME"),
        ((1, 1), 3, "VALID"),
    ],
)
def test_conv_and_its_gradients_equal_the_library_form(kernel, stride, padding):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 8, 7, 3)).astype(np.float32)
    kernel = random.normal(size=(*kernel, 3, 4)).astype(np.float32)

    def library(x, kernel):
        return conv_lax(x, kernel, stride, padding)

    def ours(x, kernel):
        return conv(x, kernel, stride, padding)

    shape = jax.eval_shape(library, x, kernel).shape
    cotangent = random.normal(size=shape).astype(np.float32)
    wanted = _value_and_gradients(library, x, kernel, cotangent=cotangent)
    got = _value_and_gradients(ours, x, kernel, cotangent=cotangent)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "shape", "padding"),
    [
        (3, 2, (9, 8), "SAME"),
        (3, 2, (9, 8), "VALID"),
        (2, 2, (7, 6), "VALID"),
        (3, 1, (5, 6), ((1, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_and_its_gradient_equal_the_library_form(size, stride, shape, padding, dtype):
    random = np.random.default_rng(0)
    # Of few values: the gradient of equals goes to the first of them in both.
    x = jnp.asarray(random.integers(-3, 3, size=(2, *shape, 5)), dtype)

    def library(x):
        pads = padding
        if isinstance(padding, str):
            pads = lax.padtype_to_pads(shape, (size, size), (stride, stride), padding)
        return max_pool_lax(x, size, stride, tuple(pads))

    def ours(x):
        return max_pool(x, size, stride, padding)

    cotangent = random.integers(-8, 8, size=jax.eval_shape(library, x).shape).astype(dtype)
    wanted = _value_and_gradients(library, x, cotangent=cotangent)
    got = _value_and_gradients(ours, x, cotangent=cotangent)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, other)


def test_average_pool_counts_no_padding():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 4, 3)).astype(np.float32)

    def by_hand(x):
        window, ones = ((1, 3, 3, 1), (1, 1, 1, 1), "SAME"), jnp.ones_like(x)
        total = lax.reduce_window(x, 0.0, lax.add, *window)
        return total / lax.reduce_window(ones, 0.0, lax.add, *window)

    cotangent = random.normal(size=x.shape).astype(np.float32)
    wanted = _value_and_gradients(by_hand, x, cotangent=cotangent)
    got = _value_and_gradients(avg_pool_same, x, cotangent=cotangent)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel_px", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_conv_modules_equal_the_library(kernel_px, stride):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8, 4)), jnp.float32)
    conv = Conv(4, 6, kernel_px, stride=stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
    wanted = lax.conv_general_dilated(
        x,
        conv.kernel[...],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(conv(x), wanted, rtol=1e-5, atol=1e-5)
    depthwise = DepthwiseConv(4, 3, stride=stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
    pads = lax.padtype_to_pads((9, 8), (3, 3), (stride, stride), "SAME")
    wanted = depthwise_conv_lax(x, depthwise.kernel[...], stride, tuple(pads))
    np.testing.assert_allclose(depthwise(x), wanted, rtol=1e-5, atol=1e-5)


def test_batch_norm_by_hand_with_masked_images():
    random = np.random.default_rng(0)
    # A mean of 300 standard deviations: E[x^2] - E[x]^2 in float32 would lose the variance.
    x = random.normal(300.0, 1.0, size=(4, 3, 3, 2)).astype(np.float32)
    norm = BatchNorm(2, momentum=0.9, epsilon=1e-3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert norm.scale is not None
    assert norm.bias is not None
    norm.scale[...], norm.bias[...] = jnp.array([2.0, 3.0]), jnp.array([1.0, -1.0])
    mask = np.array([True, False, True, True])
    real = x[mask].astype(np.float64)
    x[1] = 1e6
    y = norm(jnp.asarray(x), use_running_statistics=False, mask=jnp.asarray(mask))
    mean, variance = real.mean((0, 1, 2)), real.var((0, 1, 2))
    wanted = (real - mean) / np.sqrt(variance + 1e-3) * [2.0, 3.0] + [1.0, -1.0]
    np.testing.assert_allclose(y[mask], wanted, atol=1e-3)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * variance, rtol=1e-4)

    before = norm.mean[...]
    y = norm(jnp.asarray(x[mask]), use_running_statistics=True)
    wanted = (real - 0.1 * mean) / np.sqrt(0.9 + 0.1 * variance + 1e-3) * [2, 3] + [1, -1]
    np.testing.assert_allclose(y, wanted, rtol=1e-4)
    np.testing.assert_array_equal(norm.mean[...], before)


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    x = jnp.array([100.0, 101.0], jnp.bfloat16)[:, None, None, None]
    norm = BatchNorm(1, momentum=0.0, epsilon=1e-3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    y = norm(x, use_running_statistics=False)
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], 100.5)
    np.testing.assert_allclose(norm.var[...], 0.25)
    np.testing.assert_allclose(y[0].astype(jnp.float32), -0.998, atol=5e-3)
