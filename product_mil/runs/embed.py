"""Compute embeddings of a frozen backbone over all devices, and keep them in the cache."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from product_mil.config import Config, StageConfig
from product_mil.data.embeddings import (
    Embed,
    EmbeddingStore,
    fill_store,
    room_for,
    store_dtype,
    used_images,
)
from product_mil.data.products import ImageFault, Products
from product_mil.devices.hosts import Share, are_several, largest, own_share
from product_mil.devices.mesh import own_devices, put_batch, replicate
from product_mil.devices.runtime import embedding_batch_images
from product_mil.errors import Interrupted, UserError
from product_mil.files.cache import cache_root, can_be_written, temporary_cache
from product_mil.inference.step import make_embed_step
from product_mil.model.backbones.hand_made import VERSION as HAND_MADE_VERSION
from product_mil.model.classifier import Model
from product_mil.model.registry import backbone
from product_mil.train.augment import Ranges


@dataclass(frozen=True)
class CachedEmbeddings:
    """A store that has all images, or None with the reason in `summary`."""

    store: EmbeddingStore | None
    summary: str
    unreadable: list[ImageFault]


def embed_function(model: Model, mesh: Mesh) -> Embed:
    """A function that embeds images by the model's backbone, over all devices."""
    arrays = replicate((model.parameters, model.statistics), mesh)
    embed_step = Model(model.structure, *arrays).bound(make_embed_step(model.structure))

    def embed(images: np.ndarray) -> np.ndarray:
        return np.asarray(embed_step(put_batch(images, mesh)))

    return embed


def in_groups(embed: Embed, *, of_one_size: bool = False) -> Embed:
    """A function for any number of images, which calls `embed` with filled groups of few sizes.

    Groups `of_one_size` are those of the embedding cache, however few images there are.
    """

    def embed_all(images: np.ndarray) -> np.ndarray:
        size = embedding_batch_images(at_most=None if of_one_size else len(images))
        num_groups = max(-(-len(images) // size), 1)
        filled = np.zeros((num_groups * size, *images.shape[1:]), images.dtype)
        filled[: len(images)] = images
        groups = [embed(filled[at : at + size]) for at in range(0, len(filled), size)]
        return np.concatenate(groups)[: len(images)]

    return embed_all


def embeds_once(config: Config, stage: StageConfig) -> bool:
    """Whether a stage trains only the head, on images that do not change between uses."""
    return stage.trainable == "head" and config.data.embedding_cache and not augments(stage)


def augments(stage: StageConfig) -> bool:
    """Whether a stage changes its training images."""
    return Ranges(**dataclasses.asdict(stage.augment)).on


def backbone_stays_frozen(config: Config) -> bool:
    """Whether no stage of this configuration trains the backbone."""
    stages = [stage for stage in (config.head, config.finetune) if stage.epochs != 0]
    return all(stage.trainable == "head" for stage in stages)


def cached_embeddings(
    config: Config,
    model: Model,
    selections: Sequence[Products],
    mesh: Mesh,
    deadline: float = math.inf,
) -> CachedEmbeddings:
    """Embed the images of these products that the cache lacks.

    The name of the store contains a hash of the backbone's arrays, so equal backbones share it,
    whether they come from a file, a seed or an earlier run. Without room on the disk there is no
    store.

    Of several processes, each embeds its share of the images, and then what is lacking still: that
    is nothing if all have the same cache.

    Raises:
        Interrupted: `time.monotonic` reached the deadline. Finished embeddings stay in the cache.
    """
    spec = backbone(config.model.backbone)
    compute = spec.on_host or embed_function(model, own_devices(mesh))

    def embed(images: np.ndarray) -> np.ndarray:
        if time.monotonic() >= deadline:
            raise Interrupted("stopped while images were being embedded")
        return compute(images)

    digest = model.backbone_digest(f"version {HAND_MADE_VERSION}" if spec.on_host else "")
    fill = functools.partial(_cached, config, digest, selections, embed)
    found = fill(own_share())
    if are_several():
        largest(0)  # waits until all shares are done
        rest = fill(Share(0, 1))
        lack = largest(int(rest.store is None))
        note = f"{found.summary}, by process 0 of {own_share().of}" if not lack else rest.summary
        store = None if lack else rest.store
        return CachedEmbeddings(store, note, found.unreadable + rest.unreadable)
    return found


def _cached(
    config: Config, digest: str, selections: Sequence[Products], embed: Embed, share: Share
) -> CachedEmbeddings:
    """Embed a share of the images that the cache lacks; `digest` is the backbone's."""
    spec = backbone(config.model.backbone)
    num_images = sum(len(used_images(products)) for products in selections)
    dtype = store_dtype(num_images, spec.embedding_dim)
    name = f"{spec.name}-{config.data.image_size_px}px-{config.model.compute_dtype}-{dtype}"
    name = f"{name}-{digest[:16]}"
    lacking = ""
    for root in _roots():
        directory = root / "embeddings" / name
        needed_bytes, free_bytes = room_for(directory, num_images, spec.embedding_dim, dtype)
        if needed_bytes > 0.9 * free_bytes:
            lacking = (
                f"it needs {needed_bytes / 1e9:.1f} GB, {directory} has {free_bytes / 1e9:.1f} GB "
                "free"
            )
            continue
        started = time.monotonic()
        try:
            store = EmbeddingStore(directory, dim=spec.embedding_dim, dtype=dtype)
            embedded, unreadable = fill_store(
                store,
                selections,
                embed,
                image_size_px=config.data.image_size_px,
                batch_images=embedding_batch_images(),
                threads=config.data.threads,
                share=share,
            )
        except OSError as error:
            lacking = f"{directory} cannot be written: {error.strerror or error}"
            if can_be_written("embeddings"):  # otherwise there was a warning already
                logging.getLogger(__name__).warning("the embedding cache in %s", lacking)
            continue
        spent_s = time.monotonic() - started
        summary = (
            f"embeddings: {embedded} images embedded in {spent_s:.1f} s, {len(store)} in "
            f"{directory}"
        )
        return CachedEmbeddings(store, summary, unreadable)
    lacking = f"no embedding cache: {lacking}; images are embedded each time they are used"
    return CachedEmbeddings(None, lacking, [])


def _roots() -> Iterator[Path]:
    """The directories for embeddings: the cache, and a temporary one if that fails."""
    can_be_written("embeddings")  # warns if not; but all embeddings may be there already
    yield cache_root()
    with suppress(UserError):  # there may be no temporary files either
        yield temporary_cache()
