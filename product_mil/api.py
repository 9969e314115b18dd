"""A trained run as an object that classifies products which a program has at hand.

    classifier = product_mil.load("runs/joint")
    classifier.predict([["front.jpg", "back.jpg"], [image_bytes]])

docs/guide/python.md shows all of it.
"""

import logging
import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from product_mil.answering import Answering, BlockAnswer, by_class
from product_mil.data.embeddings import Embed, embed_images
from product_mil.data.given import GivenImage, GivenProduct, checked_products, read_products
from product_mil.data.products import Products
from product_mil.devices.runtime import embedding_batch_images, start_devices
from product_mil.errors import UserError
from product_mil.files.hub import model_name
from product_mil.inference.stream import predict_products
from product_mil.model.registry import backbone
from product_mil.prediction import ModelFacts, Prediction, Question
from product_mil.runs.embed import embed_function
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun
from product_mil.sources.ids import Ids
from product_mil.sources.memory import catalogue_of

__all__ = ["Classifier", "GivenImage", "GivenProduct", "load"]

Checkpoint = Literal["last", "best"]
_LOGGER = logging.getLogger(__name__)
PRODUCTS_AT_ONCE = 1024  # whose images are in memory at the same time


class Classifier:
    """A trained model that is ready for use; `load` makes one.

    A product is a list of images. An image is the bytes of its file in any format that training
    reads, a path, a PIL image, or an array uint8[h, w, 3] in RGB; all of them are resized in the
    same way. An image that cannot be read is left out, and a product without images that can be is
    answered from the frequencies of the categories in training. Of a product with more than
    `config.data.max_images` images (4 unless the run says otherwise) the first ones are used, as
    in training. Products come back in the order in which they were given, and any iterable of them
    will do.

    The first call compiles the model, which takes seconds; later ones do not, however many products
    they have. Nothing is written to the disk. All methods that take products raise TypeError where
    one of them is no list of images.
    """

    def __init__(self, run: TrainedRun) -> None:
        self._run = run
        self._answering = Answering(run.categories, run.temperature)
        # All classes in order of their probability: one compiled step serves every `topk`.
        self._step = run.predict_step(topk=len(run.categories.ids))

    def __repr__(self) -> str:
        return f"<product_mil.Classifier {self.summary}>"

    @property
    def category_ids(self) -> Ids[np.ndarray, " k"]:
        """The ids of all categories, ascending: the columns of `predict_proba`."""
        return self._run.categories.ids.copy()

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The path in the tree of each of `category_ids`; names that repeat stand there once."""
        return self._answering.names

    @property
    def summary(self) -> str:
        """One line for people: the run, its model and checkpoint, and the devices."""
        return self._run.summary

    @cached_property
    def facts(self) -> ModelFacts:
        """What is known of the model. The first time, an image is classified to find out."""
        run = self._run
        (tried,) = self.predict([[self._black_image]])
        return ModelFacts(
            name=model_name(run.workdir),
            pooling=run.config.model.pooling,
            backbone=run.config.model.backbone,
            image_size_px=run.config.data.image_size_px,
            max_images=run.config.data.max_images,
            levels=run.categories.depth,
            is_calibrated=run.temperature is not None,
            sums_over_images=any(image.contribution is not None for image in tried.images),
            batch_images=run.call_sizes[-1],
        )

    def validation_products(self) -> Products | None:
        """The products that the run was validated on; None where its data are not at hand."""
        data, _ = self._run.data()
        return None if data is None else data.valid

    def compile(self) -> None:
        """Compile all programs that the methods for predictions use, for batches of each size."""
        for size in self._run.call_sizes:
            self.predict([[self._black_image]] * size)

    @property
    def _black_image(self) -> np.ndarray:
        size_px = self._run.config.data.image_size_px
        return np.zeros((size_px, size_px, 3), np.uint8)

    def predict(
        self,
        products: Iterable[GivenProduct],
        topk: int = 5,
        min_confidence: float | None = None,
    ) -> list[Prediction]:
        """The `topk` most probable categories of each product, and what its images did for them.

        A model of fewer categories than `topk` gives all of them. With `min_confidence`, from 0 to
        1, predictions also say in which category or group they are at least that sure.

        Raises:
            ValueError: `topk` is below 1, or `min_confidence` is out of its bounds.
            UserError: the run does not say how to calibrate, and `min_confidence` is given.
        """
        self._check(topk, min_confidence)
        asked = [Question(product, topk, min_confidence) for product in checked_products(products)]
        found = list(self.answers(asked))
        errors = [image.error for prediction in found for image in prediction.images]
        if None not in errors:
            _warn_of_unread(errors)
        return found

    def answers(self, questions: Iterable[Question]) -> Iterator[Prediction]:
        """The prediction for each question, in order, each as soon as its batch is computed.

        Products share batches, whatever is asked about each of them. Errors are those of `predict`,
        and come with the first prediction.
        """
        asked = list(questions)
        for question in asked:
            self._check(question.topk, question.min_confidence)
        done = 0
        for answer in self._answers([question.images for question in asked]):
            more = done + len(answer.block)
            yield from self._answering.predictions(answer, asked[done:more])
            done = more

    def predict_proba(self, products: Iterable[GivenProduct]) -> Float32[np.ndarray, "N k"]:
        """The probability of each of `category_ids`, for each product."""
        found: list[np.ndarray] = [np.zeros((0, len(self._run.categories.ids)), np.float32)]
        used, first_errors = 0, []
        for block, _, errors in self._answers(products):
            found.append(by_class(block))
            used += len(block.image_index)
            first_errors += list(errors.values())[:1]
        if not used:
            _warn_of_unread(first_errors)
        return np.concatenate(found)

    def embed(self, products: Iterable[GivenProduct]) -> list[Float32[np.ndarray, "n d"]]:
        """What the backbone says of each image: an array `[n, d]` for each product of n images.

        Row j belongs to image j of the product, so rows and images stay together: all images are
        embedded, those beyond `max_images` too, and one that cannot be read has a row of NaN.
        """
        run = self._run
        size_px, batch_images = run.config.data.image_size_px, embedding_batch_images()
        found: list[np.ndarray] = []
        for part in _parts(checked_products(products)):
            catalogue = catalogue_of(read_products(part, size_px).images)
            rows = np.arange(catalogue.num_images_total)
            values = np.full((len(rows), self._embedding_dim), np.nan, np.float32)
            for done, embeddings, _ in embed_images(
                catalogue,
                rows,
                self._embed,
                image_size_px=size_px,
                batch_images=batch_images,
                threads=run.config.data.threads,
                shows_progress=False,
            ):
                values[done] = embeddings
            found += np.split(values, np.cumsum(catalogue.num_images)[:-1])
        return found

    @property
    def _embedding_dim(self) -> int:
        return backbone(self._run.config.model.backbone).embedding_dim

    @cached_property
    def _embed(self) -> Embed:
        on_host = backbone(self._run.config.model.backbone).on_host
        return on_host or embed_function(self._run.model, self._run.mesh)

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        license: str | None = None,
        data_description: str | None = None,
        data_license: str | None = None,
        comparison: str | Path | None = None,
    ) -> None:
        """Write the model into a new directory that travels: weights, labels and a model card.

        `load` takes it like a run, here and on other machines. An earlier such directory is
        replaced. What is known of the model beside its run stands in the card: its `license`, a
        `data_description`, the `data_license`, and the `comparison` that product-mil compare wrote.

        Raises:
            UserError: the directory cannot be written, or holds other files.
        """
        from product_mil.runs.exporting import export_model
        from product_mil.runs.model_card import CardFacts

        facts = CardFacts(license, data_description, data_license, _path(comparison))
        export_model(self._run, Path(directory), facts)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        message: str = "Upload model",
        license: str | None = None,
        data_description: str | None = None,
        data_license: str | None = None,
        comparison: str | Path | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub as the model `owner/name`.

        It is made if there is none, and `private` counts then; `message` is that of the commit, and
        what else is given stands in the model card. The result is the address of the model.

        Raises:
            UserError: huggingface_hub is not installed, or the hub refuses.
        """
        from product_mil.runs.exporting import push_model
        from product_mil.runs.model_card import CardFacts

        facts = CardFacts(license, data_description, data_license, _path(comparison))
        return push_model(self._run, name, facts, private=private, message=message)

    def _answers(self, products: Iterable[GivenProduct]) -> Iterator[BlockAnswer]:
        """Blocks of consecutive products, in the order given."""
        run = self._run
        for part in _parts(checked_products(products)):
            read = read_products(part, run.config.data.image_size_px)
            chosen = run.select(catalogue_of(read.images))
            batches = run.call_batches(chosen)
            for block, faults in predict_products(chosen, batches, self._step, run.mesh):
                for fault in faults:
                    read.errors.setdefault((int(fault.product_id), fault.image_index), fault.reason)
                yield BlockAnswer(block, chosen, read.errors)

    def _check(self, topk: int, min_confidence: float | None) -> None:
        if operator.index(topk) < 1:
            raise ValueError(f"topk={topk}: must be at least 1")
        if min_confidence is None:
            return
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence={min_confidence}: must be from 0 to 1")
        if self._run.temperature is None:
            raise UserError(
                f"{self._run.workdir}: this checkpoint does not say how to calibrate, because it "
                "was not evaluated or is of an earlier version; product-mil predict "
                "--min_confidence works all the same, where the run's validation products are"
            )


def _warn_of_unread(errors: Sequence[str | None]) -> None:
    """A line for a program that gives all images in a wrong way and looks at no errors."""
    if errors:
        _LOGGER.warning(
            "no image of this call could be used, so every answer is the frequencies of the "
            "categories in training; of the first image: %s",
            errors[0],
        )


def _path(place: str | Path | None) -> Path | None:
    return None if place is None else Path(place)


def _parts(products: list[GivenProduct]) -> Iterator[list[GivenProduct]]:
    """A number of products at a time, so that memory does not grow with all of them."""
    for start in range(0, len(products), PRODUCTS_AT_ONCE):
        yield products[start : start + PRODUCTS_AT_ONCE]


def load(directory: str | Path, checkpoint: Checkpoint = "last") -> Classifier:
    """Open a trained run, such as `runs/joint`, on all devices that JAX finds.

    What `save_pretrained` wrote is opened in the same way, and so is a model of the Hugging Face
    hub, `hf://owner/name` or `hf://owner/name@revision`. A plain path is never looked for there.

    "best" takes the checkpoint with the best validation score instead of the last one. Files that
    the run was trained from are not needed, and the run may still be training.

    Raises:
        UserError: there is no run in the directory, or no checkpoint yet, or one of another
            version; a model is damaged or cannot be downloaded; or JAX cannot start.
        ValueError: `checkpoint` is neither "last" nor "best".
    """
    if checkpoint not in get_args(Checkpoint):
        raise ValueError(f"checkpoint={checkpoint!r}: must be 'last' or 'best'")
    start_devices()
    return Classifier(open_run(Path(directory), checkpoint))
