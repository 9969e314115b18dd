"""What a model is fed with: embeddings from the cache, pixels, or nothing; decided here alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.config import Config, DataConfig, StageConfig
from product_mil.data.embeddings import EmbeddedSource, EmbeddingStore
from product_mil.data.loader import Loaded, PixelSource, UnseenSource, batches
from product_mil.data.plan import Plan
from product_mil.data.products import ImageFault, Products
from product_mil.model.classifier import Model
from product_mil.model.prior import NO_BACKBONE
from product_mil.model.registry import backbone
from product_mil.runs.embed import backbone_stays_frozen, cached_embeddings, embeds_once


@dataclass(frozen=True)
class Batches:
    """Batches to go through once, and the faults of images that were read before the first one.

    Faults of images that are read later lie in the batches themselves.
    """

    loaded: Iterator[Loaded]
    faults: list[ImageFault] = field(default_factory=list)

    def __iter__(self) -> Iterator[Loaded]:
        return self.loaded


@dataclass(frozen=True)
class Feed:
    """Where the batches of some selections of products come from."""

    config: DataConfig
    sees_images: bool = True  # False: nothing is read
    store: EmbeddingStore | None = None  # of all their images; None: pixels
    on_host: Callable[[np.ndarray], np.ndarray] | None = None  # embeds pixels before the devices
    faults: list[ImageFault] = field(default_factory=list)  # of images embedded or missing there
    note: str = ""  # for people: what was embedded, or why nothing was kept

    @property
    def runs_backbone(self) -> bool:
        """Whether images go through the net on the devices."""
        return self.sees_images and self.store is None and self.on_host is None

    def batches(
        self, products: Products, plan: Plan, *, num_steps: int | None = None, first_step: int = 0
    ) -> Iterator[Loaded]:
        """The batches of a plan from a step on; `num_steps` is by default one pass."""
        num_steps = plan.num_steps if num_steps is None else num_steps
        if not self.sees_images:
            source = UnseenSource(products, plan)
        elif self.store is not None:
            source = EmbeddedSource(products, plan, self.store, num_steps=num_steps)
        else:
            size_px = self.config.image_size_px
            source = PixelSource(products, plan, image_size_px=size_px, num_steps=num_steps)
        loaded = batches(source, first_step=first_step, threads=self.config.threads)
        on_host = self.on_host
        return loaded if on_host is None else (_embedded(each, on_host) for each in loaded)


def _embedded(loaded: Loaded, on_host: Callable[[np.ndarray], np.ndarray]) -> Loaded:
    """The same batch with what the host embeds of its pixels in their place."""
    assert isinstance(loaded.batch, PackedBatch)
    images, slots = loaded.batch
    values = on_host(images[slots.is_image])
    embeddings = np.zeros((*slots.segment.shape, values.shape[-1]), np.float32)
    embeddings[slots.is_image] = values
    return loaded._replace(batch=EmbeddedBatch(embeddings, slots))


def call_feed(config: Config) -> Feed:
    """A feed for products that a program hands over: it reads no cache, and nothing is kept."""
    spec = backbone(config.model.backbone)
    sees_images = spec.name != NO_BACKBONE
    return Feed(config.data, sees_images=sees_images, on_host=spec.on_host)


def open_feed(
    config: Config,
    model: Model,
    selections: Sequence[Products],
    mesh: Mesh,
    *,
    stage: StageConfig | None = None,
    pixels: bool = False,
    deadline: float = math.inf,
) -> Feed:
    """Decide what the model is fed with, and embed what the cache lacks of the selections' images.

    `stage` is the one that is to be trained; without one, the model is as training left it.
    `pixels` asks for images even where the cache would serve.

    Raises:
        Interrupted: `time.monotonic` reached the deadline; what is in the cache stays there.
    """
    if config.model.backbone == NO_BACKBONE:
        return Feed(config.data, sees_images=False)
    frozen = backbone_stays_frozen(config) if stage is None else stage.trainable == "head"
    if pixels or not frozen or not config.data.embedding_cache:
        return Feed(config.data)
    if stage is not None and not embeds_once(config, stage):
        note = "augmentation is on: no embedding cache, images are embedded at each use"
        return Feed(config.data, note=note)
    filled = cached_embeddings(config, model, selections, mesh, deadline)
    return Feed(config.data, store=filled.store, faults=filled.unreadable, note=filled.summary)
