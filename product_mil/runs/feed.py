"""Choose the input of a model: embeddings from the cache, pixels, or nothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.config import Config, DataConfig, StageConfig
from product_mil.data.embeddings import Embed, EmbeddedSource, EmbeddingStore
from product_mil.data.loader import Loaded, PixelSource, UnseenSource, batches
from product_mil.data.plan import Plan, ShareOfPlan
from product_mil.data.products import ImageFault, Products
from product_mil.devices.hosts import own_share
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
    """Batches to iterate over once, and faults of images that were read before the first batch.

    Faults of images that are read later are in the batches.
    """

    loaded: Iterator[Loaded]
    faults: list[ImageFault] = field(default_factory=list)

    def __iter__(self) -> Iterator[Loaded]:
        return self.loaded


@dataclass(frozen=True)
class Feed:
    """The source of a model's batches."""

    config: DataConfig
    sees_images: bool = True  # if False, no image is read
    store: EmbeddingStore | None = None  # has the embeddings of all images; without it, pixels
    embed: Embed | None = None  # turns pixels into embeddings on the way to the model
    faults: list[ImageFault] = field(default_factory=list)  # of images that the store lacks
    note: str = ""  # a line for people on the embeddings

    @property
    def runs_backbone(self) -> bool:
        """Whether images pass through the net on the devices."""
        return self.sees_images and self.store is None and self.embed is None

    def batches(
        self, products: Products, plan: Plan, *, num_steps: int | None = None, first_step: int = 0
    ) -> Iterator[Loaded]:
        """The batches of a plan from a step on. By default `num_steps` is one pass.

        Where several processes train together, these are the shards of this one.
        """
        num_steps = plan.num_steps if num_steps is None else num_steps
        share = own_share()
        if share.of > 1:
            plan = ShareOfPlan(plan, *share)
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
    """The batch with embeddings in place of images."""
    assert isinstance(loaded.batch, PackedBatch)
    images, slots = loaded.batch
    values = embed(images[slots.is_image])
    embeddings = np.zeros((*slots.segment.shape, values.shape[-1]), np.float32)
    embeddings[slots.is_image] = values
    return loaded._replace(batch=EmbeddedBatch(embeddings, slots))


def uncached_feed(config: Config, model: Model, mesh: Mesh, *, of_one_size: bool = False) -> Feed:
    """A feed without a cache.

    Where a cache would be used, embeddings are computed here in the same groups as there, because
    sums of other shapes round differently. `of_one_size` is that of `in_groups`.
    """
    spec = backbone(config.model.backbone)
    if spec.name == NO_BACKBONE:
        return Feed(config.data, sees_images=False)
    embed = spec.on_host
    if embed is None and backbone_stays_frozen(config) and config.data.embedding_cache:
        embed = in_groups(embed_function(model, mesh), of_one_size=of_one_size)
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
    """Choose the input of the model, and embed the images that the cache lacks.

    `stage` is the stage to be trained; without it, the model is trained already. `pixels` asks for
    images even if cached embeddings could be used.

    Raises:
        Interrupted: `time.monotonic` reached the deadline. Finished embeddings stay in the cache.
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
