"""The steps without training, to evaluate, predict and embed: pure functions, jitted once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8

from product_mil.batch import Batch, EmbeddedBatch
from product_mil.model.classifier import Arrays, merge_model
from product_mil.model.heads.common import HeadOutput
from product_mil.model.packing import packing_of
from product_mil.model.warp import Views, seen_through, view_maps


def view_embeddings(model: Any, batch: Batch, views: Views) -> Float[Array, "v S n d"]:
    """The embeddings of each view of the images."""
    if views == "none" or isinstance(batch, EmbeddedBatch):
        return model.embed(batch, use_running_statistics=True)[None]

    def one_view(one: Float[Array, "2 3"]) -> Float[Array, "S n d"]:
        images = seen_through(jnp.asarray(batch.images), one)
        return model.embed(batch._replace(images=images), use_running_statistics=True)

    # One view after another, which needs the memory of one and compiles the backbone once.
    return jax.lax.map(one_view, jnp.asarray(view_maps(views)))


def log_mean_exp(x: Float[Array, "v *e"]) -> Float[Array, "*e"]:
    """The logarithm of the mean probability over the views; a single view stays as it is."""
    return x[0] if len(x) == 1 else jax.nn.logsumexp(x, axis=0) - jnp.log(len(x))


class Scores(NamedTuple):
    """The scores of each product slot in an evaluation."""

    top1: Int32[Array, "S p"]  # class index
    in_top5: Bool[Array, "S p"]
    confidence: Float[Array, "S p"]  # probability of top1
    log_prob_true: Float[Array, "S p"]
    nll_at: Float[Array, "t S p"] | None = None  # at each temperature that was asked for


def product_log_probs(
    output: HeadOutput, batch: Batch, log_prior: Float[Array, " k"], tau: float = 0.0
) -> Float[Array, "S p k"]:
    """The log-probabilities of products; those without a readable image get the prior.

    `tau` times the log prior is subtracted from the logits (Menon et al. 2021, equation 9). With 1,
    a model that was trained with the natural class frequencies answers as if these were equal.
    """
    counts = packing_of(batch.slots).image_counts()
    logits = output.logits - tau * log_prior[None, None] if tau else output.logits
    return jnp.where(counts[..., None] > 0, jax.nn.log_softmax(logits), log_prior)


def contribution_to(
    output: HeadOutput,
    product_class: Int32[Array, "S p"],
    batch: Batch,
    log_prior: Float[Array, " k"],
    tau: float = 0.0,
) -> Float[Array, "S n"] | None:
    """What each image adds to the logit of one class of its product, or None.

    The sum over a product's images is that logit minus the mean over all classes. What the `tau` of
    `product_log_probs` subtracts is divided evenly among the images. The result is None if the
    logits of the head are not a sum over images.
    """
    if output.contributions is None:
        return None
    packing = packing_of(batch.slots)
    of_image = packing.spread(product_class)  # S n
    found = jnp.take_along_axis(output.contributions, of_image[..., None], -1)[..., 0]
    if tau:
        found -= tau * (log_prior - log_prior.mean())[of_image] * packing.uniform_attention()
    return found


def largest(
    x: Float[Array, "*e k"], count: int
) -> tuple[Float[Array, "*e t"], Int32[Array, "*e t"]]:
    """The `count` largest values and their indices; among equals, the lower index is first.

    `lax.top_k` computes the same, but XLA would first gather its argument from all devices.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    negated, index = jax.lax.sort((-x, index), num_keys=1, is_stable=True)
    return -negated[..., :count], index[..., :count]


_LEAST_LOG_PROB = float(np.log(np.finfo(np.float32).tiny))


def nll_under(
    temperatures: Sequence[float], log_probs: Float[Array, "S p k"], label: Int32[Array, "S p 1"]
) -> Float[Array, "t S p"]:
    """The negative log-likelihood of the labels at each temperature.

    It is `log(1 + sum of exp((z_k - z_label) / t) over the other classes)`. A difference of two
    logarithms would be exactly 0 in float32 once all others together have less than 6e-8, and
    `calibrate.py` needs to know how sure a model is.
    """
    log_probs = jnp.maximum(log_probs, _LEAST_LOG_PROB)  # no difference of infinities
    of_label = jnp.take_along_axis(log_probs, label, -1)
    is_label = jax.lax.broadcasted_iota(jnp.int32, log_probs.shape, log_probs.ndim - 1) == label
    beyond = jnp.where(is_label, -jnp.inf, log_probs - of_label)
    # A loop, because 17 unrolled temperatures compile for a second more, and of 5,270 classes take
    # five times as long on a CPU.
    return jax.lax.map(
        lambda temperature: jax.nn.softplus(jax.nn.logsumexp(beyond / temperature, axis=-1)),
        jnp.asarray(temperatures, log_probs.dtype),
    )


def make_eval_step(
    structure: Any, views: Views = "none", tau: float = 0.0, temperatures: Sequence[float] = ()
) -> Callable[..., Scores]:
    """A jitted function that scores labelled products, without dropout or changes to the model.

    It takes parameters, statistics, a batch and the logarithm of the prior `[k]`. `tau` is that of
    `product_log_probs`. Likelihoods are also returned at each of `temperatures`.
    """

    def eval_step(
        parameters: Arrays, statistics: Arrays, batch: Batch, log_prior: Float[Array, " k"]
    ) -> Scores:
        model = merge_model(structure, parameters, statistics)
        outputs = [
            model.fuse(view, batch.slots, None) for view in view_embeddings(model, batch, views)
        ]
        log_probs = log_mean_exp(
            jnp.stack([product_log_probs(output, batch, log_prior, tau) for output in outputs])
        )
        label = jnp.maximum(jnp.asarray(batch.slots.label), 0)[..., None]
        _, top = largest(log_probs, min(5, log_probs.shape[-1]))
        return Scores(
            top1=top[..., 0],
            in_top5=(top == label).any(-1),
            confidence=jnp.exp(log_probs.max(-1)),
            log_prob_true=jnp.take_along_axis(log_probs, label, -1)[..., 0],
            nll_at=nll_under(temperatures, log_probs, label) if temperatures else None,
        )

    return jax.jit(eval_step)


class Predicted(NamedTuple):
    """The predictions for each product slot and each image slot."""

    top_class: Int32[Array, "S p t"]  # class indices, the most probable first
    top_probability: Float[Array, "S p t"]
    log_prob_true: Float[Array, "S p"]  # meaningless where the label is -1
    attention: Float[Array, "S n"]
    image_top_class: Int32[Array, "S n"]  # the guess from each image alone
    probabilities: Float[Array, "S p k"] | None
    contribution: Float[Array, "S n"] | None = None  # of each image to its product's top class


def make_predict_step(
    structure: Any, *, topk: int, keep_all: bool, views: Views = "none", tau: float = 0.0
) -> Callable[..., Predicted]:
    """A jitted function that predicts classes, and attention, guess and contribution of images.

    With several views, attention and contribution are means over them. `keep_all` also returns all
    probabilities, which are k numbers for each product. `tau` is that of `product_log_probs`.
    """

    def predict_step(
        parameters: Arrays, statistics: Arrays, batch: Batch, log_prior: Float[Array, " k"]
    ) -> Predicted:
        model = merge_model(structure, parameters, statistics)
        embeddings = view_embeddings(model, batch, views)
        outputs = [model.fuse(view, batch.slots, None) for view in embeddings]
        log_probs = log_mean_exp(
            jnp.stack([product_log_probs(output, batch, log_prior, tau) for output in outputs])
        )
        alone = jnp.stack([jax.nn.log_softmax(model.each_alone(view)) for view in embeddings])
        values, classes = largest(log_probs, topk)
        contributions = [
            contribution_to(output, classes[..., 0], batch, log_prior, tau) for output in outputs
        ]
        known = [each for each in contributions if each is not None]  # all of them or none
        label = jnp.maximum(jnp.asarray(batch.slots.label), 0)[..., None]
        return Predicted(
            top_class=classes,
            top_probability=jnp.exp(values),
            log_prob_true=jnp.take_along_axis(log_probs, label, -1)[..., 0],
            attention=jnp.stack([output.attention for output in outputs]).mean(0),
            image_top_class=log_mean_exp(alone).argmax(-1).astype(jnp.int32),
            probabilities=jnp.exp(log_probs) if keep_all else None,
            contribution=jnp.stack(known).mean(0) if known else None,
        )

    return jax.jit(predict_step)


def make_embed_step(
    structure: Any,
) -> Callable[..., Float[Array, "b d"]]:
    """A jitted function that embeds images by the backbone, with running statistics."""

    def embed_step(
        parameters: Arrays, statistics: Arrays, images: UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b d"]:
        model = merge_model(structure, parameters, statistics)
        embeddings = model.backbone(images, use_running_statistics=True)
        return embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))

    return jax.jit(embed_step)
