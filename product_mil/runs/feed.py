"""What a model is fed with: embeddings from the cache, pixels, or nothing; decided here alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.config import Config, DataConfig, StageConfig
from product_mil.data.embeddings import Embed, EmbeddedSource, EmbeddingStore
from product_mil.data.loader import Loaded, PixelSource, UnseenSource, batches
from product_mil.data.plan import Plan
from product_mil.data.products import ImageFault, Products
from product_mil.model.classifier import Model
from product_mil.model.prior import NO_BACKBONE
from product_mil.model.registry import backbone
from product_mil.runs.embed import (
    backbone_stays_frozen,
    cached_embeddings,
    embed_function,
    embeds_once,
    in_groups,
)


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
    embed: Embed | None = None  # of pixels, where the model is fed with embeddings made at once
    faults: list[ImageFault] = field(default_factory=list)  # of images embedded or missing there
    note: str = ""  # for people: what was embedded, or why nothing was kept

    @property
    def runs_backbone(self) -> bool:
        """Whether images go through the net on the devices."""
        return self.sees_images and self.store is None and self.embed is None

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
        embed = self.embed
        return loaded if embed is None else (_embedded(each, embed) for each in loaded)


def _embedded(loaded: Loaded, embed: Embed) -> Loaded:
    """The same batch with the embeddings of its images in their place."""
    assert isinstance(loaded.batch, PackedBatch)
    images, slots = loaded.batch
    values = embed(images[slots.is_image])
    embeddings = np.zeros((*slots.segment.shape, values.shape[-1]), np.float32)
    embeddings[slots.is_image] = values
    return loaded._replace(batch=EmbeddedBatch(embeddings, slots))


def call_feed(config: Config, model: Model, mesh: Mesh) -> Feed:
    """A feed for products that a program hands over: it reads no cache, and nothing is kept.

    Where a cache would hold embeddings, they are made alike: sums in other shapes round
    differently.
    """
    spec = backbone(config.model.backbone)
    if spec.name == NO_BACKBONE:
        return Feed(config.data, sees_images=False)
    embed = spec.on_host
    if embed is None and backbone_stays_frozen(config) and config.data.embedding_cache:
        embed = in_groups(embed_function(model, mesh))
    return Feed(config.data, embed=embed)


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
