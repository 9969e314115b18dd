"""Single layers in several forms: parts of gpu.py."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.on_gpu.bench import Bench
from product_mil.model.layers.convolutions import conv_lax
from product_mil.model.layers.depthwise import depthwise_conv_lax, depthwise_conv_shifted


def _in_forms(
    bench: Bench, what: str, forms: dict[str, Callable[[Any, Any], Any]], x: Any, kernel: Any
) -> Iterator[dict[str, Any]]:
    """Each form forward between ReLUs, which a form may take into its kernel, and its gradients."""
    for form, function in forms.items():

        def forward(x: Any, kernel: Any, f: Any = function) -> Any:
            return jax.nn.relu(f(jax.nn.relu(x), kernel) + jnp.asarray(0.5, x.dtype))

        def gradients(x: Any, kernel: Any, dy: Any, f: Any = function) -> Any:
            return jax.vjp(f, x, kernel)[1](dy)

        dy = jnp.ones_like(jax.eval_shape(function, x, kernel))
        run, run_gradients = jax.jit(forward), jax.jit(gradients)
        cases = {
            "forward": lambda r=run: r(x, kernel),
            "gradients": lambda r=run_gradients, dy=dy: r(x, kernel, dy),
        }
        for case, timed in cases.items():
            yield {"what": what, "case": case, "form": form, "ms": 1000 * bench.seconds(timed)}


def depthwise(bench: Bench) -> Iterator[dict[str, Any]]:
    """Layers of MobileNetV2 and Xception: shifted multiply-adds and XLA's grouped convolution."""
    shapes = [(45, 144, 1), (90, 96, 2), (22, 728, 1), (12, 384, 1)]
    for size, features, stride in shapes[:1] if bench.smoke else shapes:
        x = jnp.ones((bench.batch, size, size, features), jnp.bfloat16)
        kernel = jnp.ones((3, 3, features), jnp.bfloat16)
        of = {
            "stride": stride,
            "pads": tuple(lax.padtype_to_pads((size, size), (3, 3), (stride, stride), "SAME")),
        }
        forms = {
            "shifted": partial(depthwise_conv_shifted, **of),
            "library": partial(depthwise_conv_lax, **of),
        }
        what = f"{size} px, {features} channels, stride {stride}"
        yield from _in_forms(bench, what, forms, x, kernel)


def pointwise(bench: Bench) -> Iterator[dict[str, Any]]:
    """1x1 convolutions of MobileNetV2 and Xception: a product and XLA's convolution."""
    shapes = [(45, 24, 144), (22, 728, 728), (9, 768, 192)]
    for size, features_in, features in shapes[:1] if bench.smoke else shapes:
        x = jnp.ones((bench.batch, size, size, features_in), jnp.bfloat16)
        kernel = jnp.ones((features_in, features), jnp.bfloat16)
        forms = {
            "product": jnp.matmul,
            "library": lambda x, kernel: conv_lax(x, kernel[None, None], 1, "VALID"),
        }
        what = f"{size} px, {features_in} to {features} channels"
        yield from _in_forms(bench, what, forms, x, kernel)


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
