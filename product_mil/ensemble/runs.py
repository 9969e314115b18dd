"""Trained runs as members of an ensemble, with one pass over the images for all."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from product_mil.batch import Batch, PackedBatch, SizedBatch
from product_mil.data.loader import Loaded
from product_mil.data.products import Products
from product_mil.devices.mesh import put_batch
from product_mil.ensemble.files import refuse_missing
from product_mil.ensemble.rule_names import Rule
from product_mil.ensemble.rules import combine, combined_attention
from product_mil.errors import UserError
from product_mil.inference.step import (
    Predicted,
    largest,
    log_mean_exp,
    product_log_probs,
    view_embeddings,
)
from product_mil.model.classifier import merge_model
from product_mil.model.prior import NO_BACKBONE
from product_mil.model.registry import backbone
from product_mil.model.warp import Views
from product_mil.runs.feed import Batches
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun


def open_members(
    workdirs: Sequence[Path], checkpoint: Literal["last", "best"], listing: Path
) -> list[TrainedRun]:
    """Open runs that can be combined.

    Raises:
        UserError: the runs have different categories (a long list of these is written to
            `listing`), use different images of a product, or only some use hand-made features.
    """
    runs = [open_run(workdir, checkpoint) for workdir in workdirs]
    names = [str(workdir) for workdir in workdirs]
    refuse_missing("categories", names, [run.categories.ids for run in runs], listing)
    for run in runs[1:]:
        for field in ("max_images", "drop_images_md5"):
            ours, theirs = (getattr(r.config.data, field) for r in (runs[0], run))
            if ours != theirs:
                raise UserError(
                    f"{run.workdir} was trained with config.data.{field}={theirs}, "
                    f"{runs[0].workdir} with {ours}: they see other images; export the predictions "
                    "of each and combine the files with --predictions"
                )
    backbones = {run.config.model.backbone for run in runs}
    for run in runs:
        if len(backbones) > 1 and backbone(run.config.model.backbone).on_host is not None:
            raise UserError(
                f"{run.workdir} goes by hand-made features, which no other member sees: export the "
                "predictions of each and combine the files with --predictions"
            )
    return runs


class MemberOutputs:
    """The outputs of all members for a batch, for use inside a traced function.

    Members with equal backbones (the same arrays, image size and precision) share embeddings.
    """

    def __init__(self, runs: Sequence[TrainedRun], views: Views = "none", tau: float = 0.0) -> None:
        """`views` and `tau` are those of `make_predict_step`."""
        self._views: Views = views
        self._tau = tau
        self._structures = [run.model.structure for run in runs]
        # A run that looks at no image accepts images of any size.
        self.run_of_size = {run.config.data.image_size_px: run for run in _seeing(runs)}
        sizes_px = list(self.run_of_size)
        self._size = [
            sizes_px.index(size_px) if size_px in sizes_px else 0
            for size_px in (run.config.data.image_size_px for run in runs)
        ]
        self.backbones = [_backbone_of(run) for run in runs]
        self.arrays = [(run.model.parameters, run.model.statistics, run.log_prior) for run in runs]

    def __call__(
        self, arrays: Sequence[Any], batch: Batch | SizedBatch
    ) -> tuple[Float[Array, "m S p k"], Float[Array, "m S n"], Float[Array, "m S n k"]]:
        """Log-probabilities of products, attention, and log-probabilities of single images."""
        embedded: dict[str, Array] = {}
        log_probs, attention, alone = [], [], []
        for number, (parameters, statistics, log_prior) in enumerate(arrays):
            own = (
                PackedBatch(batch.images[self._size[number]], batch.slots)
                if isinstance(batch, SizedBatch)
                else batch
            )
            model = merge_model(self._structures[number], parameters, statistics)
            name = self.backbones[number]
            if name not in embedded:
                embedded[name] = view_embeddings(model, own, self._views)
            outputs = [model.fuse(view, own.slots, None) for view in embedded[name]]
            of_views = [product_log_probs(output, own, log_prior, self._tau) for output in outputs]
            log_probs.append(log_mean_exp(jnp.stack(of_views)))
            attention.append(jnp.stack([output.attention for output in outputs]).mean(0))
            singles = [jax.nn.log_softmax(model.each_alone(view)) for view in embedded[name]]
            alone.append(log_mean_exp(jnp.stack(singles)))
        return jnp.stack(log_probs), jnp.stack(attention), jnp.stack(alone)


def _seeing(runs: Sequence[TrainedRun]) -> list[TrainedRun]:
    """The runs that look at images; if there is none, the first run."""
    return [run for run in runs if run.config.model.backbone != NO_BACKBONE] or [*runs[:1]]


def _backbone_of(run: TrainedRun) -> str:
    """A name that is the same only for equal backbones on equal pixels."""
    if run.config.model.backbone == NO_BACKBONE:
        return NO_BACKBONE
    model, size_px = run.config.model, run.config.data.image_size_px
    return f"{model.backbone} {model.compute_dtype} {size_px} {run.model.backbone_digest()}"


def make_ensemble_step(
    members: MemberOutputs,
    weights: Float64[np.ndarray, " m"],
    rule: Rule,
    *,
    topk: int,
    keep_all: bool,
) -> Callable[[Any], Predicted]:
    """A function that predicts a batch by the ensemble, for `predict_products`."""

    def ensemble_step(arrays: Any, batch: Any) -> Predicted:
        log_probs, attention, alone = members(arrays, batch)
        together = combine(log_probs, weights, rule)
        values, classes = largest(together, topk)
        label = jnp.maximum(jnp.asarray(batch.slots.label), 0)[..., None]
        return Predicted(
            top_class=classes,
            top_probability=jnp.exp(values),
            log_prob_true=jnp.take_along_axis(together, label, -1)[..., 0],
            attention=combined_attention(attention, weights),
            image_top_class=combine(alone, weights, rule).argmax(-1).astype(jnp.int32),
            probabilities=jnp.exp(together) if keep_all else None,
        )

    step = jax.jit(ensemble_step)
    return lambda batch: step(members.arrays, batch)


def member_log_probs(
    runs: Sequence[TrainedRun],
    members: MemberOutputs,
    products: Products,
    batches: Iterable[Loaded],
) -> Iterator[tuple[Float[np.ndarray, "m b k"], Any]]:
    """Yield the log-probabilities of all members, and the labels, for consecutive products."""
    step = jax.jit(lambda arrays, batch: members(arrays, batch)[0])
    for loaded in batches:
        log_probs = np.asarray(step(members.arrays, put_batch(loaded.batch, runs[0].mesh)))
        real = loaded.positions >= 0
        yield log_probs[:, real], products.labels[loaded.positions[real]]


def member_batches(
    runs: Sequence[TrainedRun],
    members: MemberOutputs,
    products: Products,
    images_per_batch: int | None,
    *,
    views: Views,
) -> Batches:
    """Batches with every product once, in order.

    Each image is decoded once for each image size among the runs. If all members share one
    backbone, these are the batches of the first run, which may come from its embedding cache.
    """
    if len(set(members.backbones)) == 1:
        return runs[0].batches(products, images_per_batch, pixels=views != "none")
    streams = [
        run.batches(products, images_per_batch, pixels=True) for run in members.run_of_size.values()
    ]
    return Batches(_of_all_sizes(streams))


def _of_all_sizes(streams: Sequence[Iterable[Loaded]]) -> Iterator[Loaded]:
    """Join streams of the same batches at several image sizes."""
    for parts in zip(*streams, strict=True):
        slots = parts[0].batch.slots
        # An image that one size could not read is padding for all.
        segment = np.maximum.reduce([part.batch.slots.segment for part in parts])
        yield Loaded(
            SizedBatch(tuple(part.batch.images for part in parts), slots._replace(segment=segment)),
            parts[0].positions,
            list(dict.fromkeys(fault for part in parts for fault in part.faults)),
        )
