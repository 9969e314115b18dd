"""How far to trust the correction of a `ResidualHead`: two numbers fitted on validation products.

Where photos of a product disagree, the correction wins by far; where they agree it can lose a
little, because labels of products are fewer than labels of images. Training data can't tell which
is the case, since there the correction always helps; products that were not trained on can.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from product_mil.data.loader import Loaded
from product_mil.devices.mesh import put_batch
from product_mil.model.classifier import Arrays, merge_model
from product_mil.model.heads.residual import ResidualHead
from product_mil.model.packing import packing_of

TRUST = "head/trust"  # its path among the statistics
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0)  # so that confidence alone decides nothing


def make_trust_step(
    structure: Any, adjustment: Float[np.ndarray, " k"] | None = None
) -> Callable[..., Float[Array, "S p a t"]]:
    """Negative log-likelihood of each product's label under each share and temperature.

    `adjustment` is added to the logits: what a model that learned to treat classes alike lacks to
    tell how likely they are among products as they come (`losses.Target`).
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
    """The shares for products with one image and with several.

    At the temperature that suits all products best, the smallest share whose mean likelihood is
    within one standard error of the best one's (the "one standard error rule" of Breiman et al.
    1984): the averaged model stands until there is evidence against it. A kind of product that
    is not there at all gets the whole correction.
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
    """What `step(batch)` says of each product, in the products' order."""
    nll = np.zeros((num_products, len(SHARES), len(TEMPERATURES)), np.float64)
    for loaded in batches:
        real = loaded.positions >= 0
        nll[loaded.positions[real]] = np.asarray(step(put_batch(loaded.batch, mesh)))[real]
    return nll
