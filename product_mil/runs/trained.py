"""A trained run: its weights, what they mean, and steps and batches to use them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int64

from product_mil.config import Config
from product_mil.data.duplicates import drop_images
from product_mil.data.faults import FaultList, Policy
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.errors import UserError
from product_mil.files.whole import to_json
from product_mil.inference.step import Predicted, Scores, make_eval_step, make_predict_step
from product_mil.model.classifier import Model
from product_mil.model.warp import Views
from product_mil.runs.data import RunData
from product_mil.runs.feed import Batches, Feed, open_feed, uncached_feed
from product_mil.runs.known_products import Known, Shown, known_products, run_data
from product_mil.runs.model import log_prior_of
from product_mil.runs.pretrained import is_pretrained
from product_mil.runs.schedule import call_plan, call_slots, prediction_slots
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.categories import Categories
from product_mil.sources.opening import open_catalogue
from product_mil.train.record import VALIDATION

T = TypeVar("T")


@dataclass(frozen=True)
class TrainedRun:
    """A trained model on its devices, with the meaning of its outputs."""

    workdir: Path
    stage: str
    step: int  # of the checkpoint, in the stage
    config: Config
    categories: Categories
    class_counts: Int64[np.ndarray, " k"]  # in training
    model: Model
    mesh: Mesh
    record: dict[str, Any]  # from the checkpoint

    @property
    def log_prior(self) -> Float[np.ndarray, " k"]:
        """The logarithm of the prediction for a product without a readable image."""
        return log_prior_of(self.class_counts)

    @property
    def temperature(self) -> float | None:
        """The temperature that makes the labels of the validation products most likely.

        None if the checkpoint was not evaluated, or was written by an earlier version.
        """
        return self.record.get(VALIDATION, {}).get("temperature")

    @property
    def summary(self) -> str:
        """One line for people on the run and its checkpoint."""
        model = self.config.model
        return (
            f"{self.workdir}: {model.pooling} over {model.backbone}, {len(self.categories.ids)} "
            f"categories, checkpoint at step {self.step} of stage {self.stage}, on "
            f"{self.mesh.size} {self.mesh.devices.flat[0].device_kind} device(s)"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of this checkpoint for files that are made with it, as plain JSON."""
        return {
            "workdir": str(self.workdir.resolve()),
            "stage": self.stage,
            "step": self.step,
            "config": self.config.to_dict(),
            "data_fingerprint": self.record["data_fingerprint"],
            "version": self.record["version"],
        }

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides predictions: arrays, categories, class counts, settings."""
        about = [self.config.to_dict(), self.categories.to_json(), self.class_counts.tolist()]
        return self.model.digest(to_json(about))

    def bound(self, step: Callable[..., T], *more: Any) -> Callable[[Any], T]:
        """A function of the batch alone that calls a step with this model's arrays.

        The step takes parameters, statistics, the batch, the logarithm of the prior and then
        `more`.
        """
        return self.model.bound(step, self.log_prior, *more)

    def predict_step(
        self, *, topk: int, keep_all: bool = False, views: Views = "none", tau: float = 0.0
    ) -> Callable[[Any], Predicted]:
        """The prediction step of this model; `topk` is at most the number of classes."""
        topk = min(topk, len(self.categories.ids))
        structure = self.model.structure
        return self.bound(
            make_predict_step(structure, topk=topk, keep_all=keep_all, views=views, tau=tau)
        )

    def eval_step(self, views: Views = "none", tau: float = 0.0) -> Callable[[Any], Scores]:
        """The evaluation step of this model."""
        return self.bound(make_eval_step(self.model.structure, views, tau))

    def products(self, spec: str) -> Products:
        """The products of some data, with images chosen and labels numbered as in training.

        If several records have the same id, the first one counts.

        Raises:
            UserError: a file is missing or has no product.
        """
        return self.select(open_catalogue(spec))

    def select(self, catalogue: Catalogue) -> Products:
        """The products of a catalogue, chosen and labelled as by `products`."""
        rows = catalogue.first_records()
        md5 = self.config.data.drop_images_md5
        return Products(
            catalogue,
            product_rows=rows,
            labels=self.categories.class_of(np.asarray(catalogue.category_id)[rows]),
            max_images=self.config.data.max_images,
            dropped=drop_images(catalogue, md5) if md5 else None,
        )

    def data(self) -> tuple[RunData | None, str]:
        """The run's training and validation products, or None with a reason if they are gone.

        A pretrained directory may be a stranger's, so what it names is not opened; the embedded
        sample needs no name.
        """
        data = self.config.data
        if (data.train or data.valid) and is_pretrained(self.workdir):
            return None, "a pretrained directory does not say where they lie"
        return run_data(self.config, self.record["data_fingerprint"])

    def known(self, products: Products, shown: Shown | None = None) -> Known | None:
        """How many of some products the run has seen; None if that is not known.

        `shown` is the result of `shown_by` for the run's data, if it is known already.
        """
        return known_products(self.workdir, self.data()[0], products, shown)

    def fault_list(
        self, path: Path | None, bad_records: Policy | None, bad_images: Policy | None
    ) -> FaultList:
        """A new list of faults for an output of this run; a policy of None is that of the run."""
        data = self.config.data
        return FaultList(
            path,
            bad_records=bad_records or data.bad_records,
            bad_images=bad_images or data.bad_images,
            resumes=False,
        )

    def batches(
        self,
        products: Products,
        images_per_batch: int | None = None,
        *,
        pixels: bool = False,
        of_one_shape: bool = False,
        cached: bool = True,
    ) -> Batches:
        """Every product once, in order, in batches of about this many images over all devices.

        The default is the fastest number. If training left the backbone frozen, embeddings come
        from the cache, which is filled before this returns, so the faults of all images are known.
        `pixels` asks for images even then. Batches `of_one_shape` have as many slots for products
        as for images: where their shape depends on the products, sums may round differently. If
        nothing is to be `cached`, images are embedded on the way, in the groups of the cache.
        """
        if cached or pixels:
            feed = open_feed(self.config, self.model, [products], self.mesh, pixels=pixels)
        else:
            feed = self._uncached_feed
        if images_per_batch is None:
            slots = prediction_slots(runs_backbone=feed.runs_backbone)
        elif images_per_batch < 1:
            raise UserError(f"--images_per_batch={images_per_batch}: must be at least 1")
        else:
            slots = -(-images_per_batch // self.mesh.size)
        slots = max(slots, self.config.data.max_images)
        plan = SequentialPlan(
            products.num_images,
            shards=self.mesh.size,
            image_slots=slots,
            product_slots=slots if of_one_shape else None,
        )
        return Batches(feed.batches(products, plan), feed.faults)

    @cached_property
    def _uncached_feed(self) -> Feed:
        return uncached_feed(self.config, self.model, self.mesh, of_one_size=True)

    def call_batches(self, products: Products) -> Batches:
        """Every product once, in order, in batches of a few shapes, with nothing kept on disk.

        This is for repeated calls with products in memory; steps are compiled in the first calls
        only.
        """
        feed = self._call_feed
        plan = call_plan(products, self.mesh.size, runs_backbone=feed.runs_backbone)
        return Batches(feed.batches(products, plan))

    @property
    def call_sizes(self) -> tuple[int, ...]:
        """The numbers of images, ascending, that a batch of `call_batches` may hold."""
        sizes = call_slots(runs_backbone=self._call_feed.runs_backbone)
        return tuple(self.mesh.size * size for size in sizes)

    @cached_property
    def _call_feed(self) -> Feed:
        return uncached_feed(self.config, self.model, self.mesh)
