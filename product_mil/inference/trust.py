"""How far to trust the correction of a `ResidualHead`: two numbers fitted on validation products.

If the images of a product disagree, the correction improves answers by far. If they agree, it can
make them a little worse, because there are fewer labels of products than of images. Training data
cannot show which is the case, since there the correction always helps; validation products can.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from product_mil.data.loader import Loaded
from product_mil.devices.hosts import summed
from product_mil.devices.mesh import fetch, put_batch
from product_mil.model.classifier import Arrays, merge_model
from product_mil.model.heads.residual import ResidualHead
from product_mil.model.packing import packing_of

TRUST = "head/trust"  # path of the two numbers among the statistics
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0)  # so that calibration does not influence the choice


def make_trust_step(
    structure: Any, adjustment: Float[np.ndarray, " k"] | None = None
) -> Callable[..., Float[Array, "S p a t"]]:
    """A jitted function: -log p of each product's label at each share and temperature.

    `adjustment` is added to the logits. It restores the natural class frequencies for a model that
    was trained with others (`losses.Target`).
    """

    def trust_step(parameters: Arrays, statistics: Arrays, batch: Any) -> Float[Array, "S p a t"]:
        model = merge_model(structure, parameters, statistics)
        head: ResidualHead = model.head
        slots = batch.slots
        label = jnp.maximum(jnp.asarray(slots.label), 0)
        embeddings = model.head_input(model.embed(batch, use_running_statistics=True))
        parts = head.parts(embeddings, packing_of(slots), None)

        def nll(share: float, temperature: float) -> Float[Array, "S p"]:
            logits = parts.geometric + share * parts.correction
            if adjustment is not None:
                logits = logits + adjustment[None, None]
            log_probs = jax.nn.log_softmax(logits / temperature)
            return -jnp.take_along_axis(log_probs, label[..., None], -1)[..., 0]

        return jnp.stack([jnp.stack([nll(a, t) for t in TEMPERATURES], -1) for a in SHARES], -2)

    return jax.jit(trust_step)


def fit_trust(
    nll: Float[np.ndarray, "N a t"], several: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " 2"]:
    """The shares of the correction for products with one image and for products with several.

    At the best temperature for all products, this is the smallest share whose mean likelihood is
    within one standard error of the best one (the "one standard error rule" of Breiman et al.
    1984). So the averaged model is kept until there is evidence against it. If there are no
    products of one kind, they get the whole correction.
    """
    groups = [nll[~several], nll[several]]
    best = [group.sum(0).min(0) for group in groups]  # over shares, for each temperature
    temperature = int(np.argmin(best[0] + best[1]))
    trust = np.ones(2, np.float32)
    for number, group in enumerate(groups):
        if len(group):
            of_share = group[:, :, temperature]
            worse = of_share - of_share[:, [of_share.mean(0).argmin()]]
            standard_error = worse.std(0) / np.sqrt(len(group))
            trust[number] = SHARES[int(np.argmax(worse.mean(0) <= standard_error))]
    return trust


def collect_nll(
    num_products: int, batches: Iterable[Loaded], step: Callable[..., Array], mesh: Mesh
) -> Float[np.ndarray, "N a t"]:
    """The results of `step(batch)` for all products, in the order of the products."""
    nll = np.zeros((num_products, len(SHARES), len(TEMPERATURES)), np.float64)
    for loaded in batches:
        real = loaded.positions >= 0
        nll[loaded.positions[real]] = fetch(step(put_batch(loaded.batch, mesh)), 0)[real]
    return summed({"nll": nll})["nll"]
