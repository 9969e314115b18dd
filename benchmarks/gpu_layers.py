"""Single layers in several forms: parts of gpu.py."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from gpu_bench import Bench
from jax import lax

from product_mil.model.convolutions import depthwise_conv_lax, depthwise_conv_shifted


def depthwise(bench: Bench) -> Iterator[dict[str, Any]]:
    """Layers of MobileNetV2 and Xception, both forms, forward and gradients."""
    shapes = [(45, 144, 1), (12, 384, 1), (90, 96, 2), (22, 728, 1), (11, 728, 1)]
    forms = {"shifted": depthwise_conv_shifted, "library": depthwise_conv_lax}
    for size, features, stride in shapes[:1] if bench.smoke else shapes:
        x = jnp.ones((bench.batch, size, size, features), jnp.bfloat16)
        kernel = jnp.ones((3, 3, features), jnp.bfloat16)
        pads = tuple(lax.padtype_to_pads((size, size), (3, 3), (stride, stride), "SAME"))
        for form, function in forms.items():

            def loss(x: Any, kernel: Any, f: Any = function, s: int = stride, p: Any = pads) -> Any:
                return jnp.square(f(x, kernel, s, p).astype(jnp.float32)).mean()

            gradients = jax.jit(jax.grad(loss, (0, 1)))
            seconds = bench.seconds(lambda g=gradients, x=x, k=kernel: g(x, k))
            what = f"{size} px, {features} channels, stride {stride}, gradients, {form}"
            yield {"what": what, "ms": 1000 * seconds}


def layouts(bench: Bench) -> Iterator[dict[str, Any]]:
    """3x3 convolutions of Inception V3 in both layouts."""
    for size, features in [(43, 64)] if bench.smoke else [(43, 64), (20, 96), (9, 192)]:
        for layout in ("NHWC", "NCHW"):
            sizes = {"N": bench.batch, "H": size, "W": size, "C": features}
            x = jnp.ones([sizes[axis] for axis in layout], jnp.bfloat16)
            kernel = jnp.ones((3, 3, features, features), jnp.bfloat16)
            names = (layout, "HWIO", layout)
            convolve = jax.jit(
                lambda x, k, n=names: lax.conv_general_dilated(
                    x, k, (1, 1), "SAME", dimension_numbers=n
                )
            )
            seconds = bench.seconds(lambda c=convolve, x=x, k=kernel: c(x, k))
            yield {"what": f"3x3, {size} px, {features} channels, {layout}", "ms": 1000 * seconds}
