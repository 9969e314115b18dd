"""The classifier that a configuration asks for."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int64, Num

from product_mil.config import Config
from product_mil.model.classifier import Classifier, Model, split_model
from product_mil.model.heads import build_head
from product_mil.model.heads.tree import Levels, TreeHead
from product_mil.model.prior import PriorHead
from product_mil.model.registry import backbone
from product_mil.model.weights.head_init import NAMED, initialise_head
from product_mil.model.weights.load import load_weights
from product_mil.sources.categories import Categories


def build_model(
    config: Config,
    classes: int,
    category_ids: Int64[np.ndarray, " k"] | None = None,
    levels: Levels | None = None,
) -> tuple[Model, list[str]]:
    """A classifier with its weights loaded, and lines that say what was loaded.

    `category_ids` is given where the head is about to be trained: then `head_init` counts.
    `levels` is read by the tree alone.

    Raises:
        UserError: weights that do not fit, or cannot be had.
    """
    settings = config.model
    spec = backbone(settings.backbone)
    rngs = nnx.Rngs(config.seed)
    depth = settings.stochastic_depth
    options = {"stochastic_depth": depth} if spec.has_stochastic_depth else {}
    net = spec.build(rngs=rngs, dtype=jnp.dtype(settings.compute_dtype), **options)
    if settings.pooling == "prior":
        head = PriorHead(classes)
    elif settings.pooling == "tree":
        assert levels is not None
        dropout_rate = settings.dropout
        head = TreeHead(spec.embedding_dim, levels, dropout_rate=dropout_rate, rngs=rngs)
    else:
        head = build_head(
            settings.pooling,
            dim=spec.embedding_dim,
            classes=classes,
            attention_heads=settings.attention_heads,
            attention_dim=settings.attention_dim,
            dropout_rate=settings.dropout,
            position_embedding=settings.position_embedding,
            count_embedding=settings.count_embedding,
            rngs=rngs,
        )
    notes, top = [], None
    if settings.weights and not Path(settings.weights).is_dir():  # a directory: a warm start
        with_top = category_ids is not None and settings.head_init not in NAMED
        loaded = load_weights(net, spec, settings.weights, with_top=with_top)
        top = loaded.top
        notes.append(f"{spec.name}: {loaded.n_tensors} tensors from {loaded.path}")
    model = Model(*split_model(Classifier(net, head, layer_norm=settings.layer_norm)))
    if category_ids is not None:
        model, more = initialise_head(model, settings.head_init, category_ids, top, config.seed)
        notes += more
    return model, notes


def levels_of(categories: Categories) -> Levels:
    """What `build_model` has to know of the tree."""
    return categories.level1.tolist(), categories.level2.tolist()


def log_prior_of(class_counts: Num[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Logarithm of the class frequencies in training, with one added to each count."""
    counts = class_counts.astype(np.float64) + 1
    return np.log(counts / counts.sum()).astype(np.float32)
