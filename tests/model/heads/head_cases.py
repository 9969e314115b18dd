"""Small packed products, and heads to run on them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from product_mil.batch import EmbeddedBatch, Slots
from product_mil.model.classifier import Classifier, merge_model, split_model
from product_mil.model.heads.common import HeadOutput
from product_mil.model.registry import head

NAMES = [
    "probabilities",
    "mean",
    "max",
    "gated_attention",
    "transformer",
    "residual",
    "posterior_attention",
]
JOINT = NAMES[1:]
D, K, P = 8, 5, 4
# Shard 0: products of 1, 3, 2 images and an empty one; shard 1: one product, padding in between.
SEGMENT = np.asarray([[0, 1, 1, 1, 2, 2, 4], [4, 0, 4, 0, 0, 0, 4]], np.int32)
PLACE = np.asarray([[0, 0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3, 0]], np.int32)
LABEL = np.asarray([[0, 1, 2, -1], [3, -1, -1, -1]], np.int32)
X = np.random.default_rng(0).normal(size=(2, 7, D)).astype(np.float32)
KEY = jax.random.key(3)


def built_head(
    name: str,
    dim: int,
    classes: int,
    *,
    dropout_rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> Any:
    """A head with small settings; of `options` it takes those that it has."""
    spec = head(name)
    given = {
        "attention_heads": 2,
        "attention_dim": 4,
        "position_embedding": False,
        "count_embedding": False,
        **options,
    }
    own = {name: given[name] for name in spec.settings}
    return spec.build(dim, classes, dropout_rate=dropout_rate, rngs=rngs or nnx.Rngs(0), **own)


class NoBackbone(nnx.Module):
    """Embedded batches pass by it."""

    def __call__(self) -> jax.Array:
        raise NotImplementedError


def head_model(
    name: str,
    *,
    dim: int = D,
    classes: int = K,
    shaken: bool = True,
    layer_norm: bool = False,
    **options: Any,
) -> Any:
    """A head whose parameters are all away from their starting points."""
    fusing = built_head(name, dim, classes, **options)
    model = Classifier(NoBackbone(), fusing, layer_norm=layer_norm)
    if shaken:
        structure, parameters, statistics = split_model(model)
        rng = np.random.default_rng(7)
        for path, leaf in parameters.items():
            noise = rng.normal(0, 0.5, leaf.shape).astype(np.float32)
            parameters[path] = jnp.asarray(np.asarray(leaf) + noise)
        model = merge_model(structure, parameters, statistics)
    return model


split = functools.cache(split_model)  # by identity: change a model before its first run


def run(
    model: Any,
    x: np.ndarray = X,
    segment: np.ndarray = SEGMENT,
    place: np.ndarray = PLACE,
    label: np.ndarray = LABEL,
    key: jax.Array | None = None,
) -> Any:
    structure, *arrays = split(model)
    return forward(structure, arrays, EmbeddedBatch(x, Slots(segment, place, label)), key)


@functools.partial(jax.jit, static_argnums=0)
def forward(structure: Any, arrays: Any, batch: EmbeddedBatch, key: Any) -> HeadOutput:
    return merge_model(structure, *arrays)(batch, use_running_statistics=True, key=key)


def log_probs(output: HeadOutput) -> np.ndarray:
    return np.asarray(jax.nn.log_softmax(output.logits))


def gradients(model: Any, x: np.ndarray, segment: np.ndarray = SEGMENT) -> dict:
    """Of all parameters, and of the embeddings, of a sum over everything that comes out."""
    structure, parameters, statistics = split(model)
    batch = EmbeddedBatch(jnp.asarray(x), Slots(segment, PLACE, LABEL))
    of_parameters, of_batch = _gradients(structure, statistics, parameters, batch)
    return {**of_parameters, "x": of_batch.embeddings}


@functools.partial(jax.jit, static_argnums=0)
def _gradients(structure: Any, statistics: Any, parameters: Any, batch: Any) -> Any:
    def scalar(parameters: dict, batch: EmbeddedBatch) -> jax.Array:
        model = merge_model(structure, parameters, statistics)
        output = model(batch, use_running_statistics=True, key=None)
        total = (jax.nn.log_softmax(output.logits)[..., 0] ** 2).sum()
        if output.image_logits is not None:
            real = batch.slots.segment[..., None] < P
            total += (jnp.where(real, output.image_logits, 0) ** 2).sum()
        return total

    return jax.grad(scalar, argnums=(0, 1), allow_int=True)(parameters, batch)
