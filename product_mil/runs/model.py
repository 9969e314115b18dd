"""The classifier that a configuration asks for."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Num

from product_mil.config import Config
from product_mil.config.start import FromFile, Published
from product_mil.model.classifier import Classifier, Model, split_model
from product_mil.model.heads.tree import Levels
from product_mil.model.registry import backbone, head
from product_mil.model.weights.head_init import NAMED, initialise_head
from product_mil.model.weights.load import load_weights
from product_mil.model.weights.published import published_file
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Ids


def build_model(
    config: Config,
    classes: int,
    category_ids: Ids[np.ndarray, " k"] | None = None,
    levels: Levels | None = None,
) -> tuple[Model, list[str]]:
    """A classifier with its weights loaded, and lines that say what was loaded.

    `category_ids` is given where the head is about to be trained: then `head_init` counts.
    `levels` is read by heads that need it alone.

    Raises:
        UserError: a head that is not registered; weights that do not fit, or cannot be had.
    """
    settings = config.model
    spec = backbone(settings.backbone)
    rngs = nnx.Rngs(config.seed)
    depth = settings.stochastic_depth
    options = {"stochastic_depth": depth} if spec.has_stochastic_depth else {}
    net = spec.build(rngs=rngs, dtype=jnp.dtype(settings.compute_dtype), **options)
    fusion = head(settings.pooling)
    own = {name: getattr(settings, name) for name in fusion.settings}
    if fusion.needs_levels:
        assert levels is not None
        own["levels"] = levels
    fusing = fusion.build(
        spec.embedding_dim, classes, dropout_rate=settings.dropout, rngs=rngs, **own
    )
    notes, top = [], None
    start = settings.start
    if isinstance(start, Published | FromFile):  # an earlier run: `warm_start`
        with_top = category_ids is not None and settings.head_init not in NAMED
        named = start.path if isinstance(start, FromFile) else None
        loaded = load_weights(net, spec, named or published_file(spec, with_top=with_top))
        top = loaded.top
        notes.append(f"{spec.name}: {loaded.n_tensors} tensors from {loaded.path}")
    model = Model(*split_model(Classifier(net, fusing, layer_norm=settings.layer_norm)))
    if category_ids is not None:
        model, more = initialise_head(model, settings.head_init, category_ids, top, config.seed)
        notes += more
    return model, notes


def levels_of(categories: Categories) -> Levels:
    """What `build_model` has to know of the tree."""
    return categories.groups.tolist()


def log_prior_of(class_counts: Num[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Logarithm of the class frequencies in training, with one added to each count."""
    counts = class_counts.astype(np.float64) + 1
    return np.log(counts / counts.sum()).astype(np.float32)
