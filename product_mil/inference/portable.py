"""The prediction as one function of arrays, exported as StableHLO that needs JAX alone.

    images      uint8[n, h, w, 3]   of all products, one product after the other
    num_images  int32[p]            the number of images of each product
    result      float32[p, k]       the probability of each category

Both n and p are free. Images after the last product's are padding, and change nothing, so a program
that compiles for a few sizes can fill up the images, and the products with counts of 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int32, UInt8

from product_mil.batch import PackedBatch, Slots
from product_mil.errors import UserError
from product_mil.inference.step import product_log_probs
from product_mil.model.classifier import Arrays, merge_model

PLATFORMS = ("cpu", "cuda")
Probabilities = Callable[[UInt8[Array, "n h w 3"], Int32[Array, " p"]], Float[Array, "p k"]]


def probability_function(
    structure: Any,
    parameters: Arrays,
    statistics: Arrays,
    log_prior: Float[np.ndarray, " k"],
    max_images: int,
) -> Probabilities:
    """The function above, of a model; of a product with more images the first ones count."""
    # On one device, because arrays on several would make it a program for as many.
    prior, parameters, statistics = jax.tree.map(
        lambda of: jnp.asarray(np.asarray(of)), (log_prior, parameters, statistics)
    )

    def probabilities(
        images: UInt8[Array, "n h w 3"], num_images: Int32[Array, " p"]
    ) -> Float[Array, "p k"]:
        model = merge_model(structure, parameters, statistics)
        n, p = images.shape[0], num_images.shape[0]
        ends = jnp.cumsum(jnp.asarray(num_images, jnp.int32))
        # How many products end at or before an image, which is p for padding.
        owner = jnp.cumsum(jnp.zeros(n + 1, jnp.int32).at[ends].add(1))[:n]
        begins = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
        image_index = jnp.arange(n, dtype=jnp.int32) - begins[owner]
        segment = jnp.where(image_index < max_images, owner, p).astype(jnp.int32)
        slots = Slots(segment[None], image_index[None], jnp.full((1, p), -1, jnp.int32))
        batch = PackedBatch(images[None], slots)
        output = model(batch, use_running_statistics=True, key=None)
        return jnp.exp(product_log_probs(output, batch, prior))[0]

    return probabilities


def stable_hlo(probabilities: Probabilities, image_size_px: int) -> bytes:
    """The function for any numbers of images and products, as `jax.export.deserialize` takes it.

    Raises:
        UserError: flatbuffers is not installed.
    """
    n, p = export.symbolic_shape("n, p")
    arguments = (
        jax.ShapeDtypeStruct((n, image_size_px, image_size_px, 3), jnp.uint8),
        jax.ShapeDtypeStruct((p,), jnp.int32),
    )
    exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(*arguments)
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise UserError(
            "StableHLO needs flatbuffers: pip install 'product_mil[stablehlo]'"
        ) from None
