"""From blocks of predictions to the prediction for each product that was asked about."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from product_mil.data.products import Products
from product_mil.inference.backoff import BackOff, node_names
from product_mil.inference.calibrate import calibrated
from product_mil.inference.predictions import PredictionBlock
from product_mil.prediction import ImagePrediction, Prediction, Question, SureAnswer
from product_mil.sources.categories import Categories, path_of
from product_mil.sources.ids import Ids


class BlockAnswer(NamedTuple):
    """Predictions of consecutive products of a part, and what is known of the part's images."""

    block: PredictionBlock  # whose product ids count the products of the part
    products: Products
    errors: Mapping[tuple[int, int], str]  # by product and image

    def unused_image(self, product: int, index: int) -> ImagePrediction:
        """An image that is not in the block, with the reason."""
        error = self.errors.get((product, index))
        dropped, first = self.products.dropped, self.products.catalogue.first_image
        if error is None and dropped is not None and dropped[first[product] + index]:
            error = "not used: config.data.drop_images_md5 of the run names it as a placeholder"
        if error is None:
            error = f"not used: the model takes the first {self.products.max_images} images"
        return ImagePrediction(0.0, None, None, error)


class Answering:
    """Answers questions for one tree of categories, calibrated where there is a temperature."""

    def __init__(self, categories: Categories, temperature: float | None) -> None:
        self._categories, self._temperature = categories, temperature

    @cached_property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The path in the tree of each category; names that repeat stand there once."""
        categories = self._categories
        return tuple(tuple(path_of(categories, number)) for number in categories.ids.tolist())

    @cached_property
    def _node_names(self) -> list[list[tuple[str, ...]]]:
        return node_names(self._categories)

    def _sure(
        self, block: PredictionBlock, min_confidence: Sequence[float | None]
    ) -> list[SureAnswer | None]:
        temperature = self._temperature
        if temperature is None or all(least is None for least in min_confidence):
            return [None] * len(block)
        at_least = np.array([np.inf if least is None else least for least in min_confidence])
        categories = self._categories
        back_off = BackOff(categories, min_confidence=at_least, temperature=temperature)
        answers = back_off.answers(by_class(block), block.num_readable_images > 0)
        return [
            None if least is None else self._sure_answer(*answer)
            for least, *answer in zip(min_confidence, *(a.tolist() for a in answers), strict=True)
        ]

    def _sure_answer(self, level: int, node: int, probability: float) -> SureAnswer:
        categories = self._categories
        is_category = level == categories.depth
        return SureAnswer(
            level=level,
            category_id=categories.ids[node].item() if is_category else None,
            names=tuple(dict.fromkeys(filter(None, self._node_names[level][node]))),
            probability=probability,
        )

    def _confidence(self, block: PredictionBlock) -> list[float] | list[None]:
        temperature = self._temperature
        if temperature is None:
            return [None] * len(block)
        seen = block.num_readable_images > 0
        return calibrated(block.top_probability, seen, temperature)[:, 0].tolist()

    def predictions(
        self, answer: BlockAnswer, questions: Sequence[Question]
    ) -> Iterator[Prediction]:
        """The prediction for each product of a block, which each have a question."""
        block, ids = answer.block, self._categories.ids
        used = _used_images(block, ids)
        confidence = self._confidence(block)
        sure = self._sure(block, [question.min_confidence for question in questions])
        products = block.product_id.tolist()
        for row, (product, question) in enumerate(zip(products, questions, strict=True)):
            top = block.top_class[row, : question.topk]
            yield Prediction(
                category_ids=tuple(ids[top].tolist()),
                names=tuple(self.names[class_index] for class_index in top.tolist()),
                probabilities=tuple(block.top_probability[row, : question.topk].tolist()),
                confidence=confidence[row],
                sure=sure[row],
                images=tuple(
                    used.get((product, index)) or answer.unused_image(product, index)
                    for index in range(block.num_images[row])
                ),
                from_prior=not block.num_readable_images[row],
            )


def _used_images(
    block: PredictionBlock, category_ids: Ids[np.ndarray, " k"]
) -> dict[tuple[int, int], ImagePrediction]:
    """The images in a block, by product and image."""
    owner = np.repeat(block.product_id, block.num_readable_images).tolist()
    guesses = category_ids[block.image_top_class].tolist()
    added = [None] * len(owner) if block.contribution is None else block.contribution.tolist()
    images = zip(block.attention.tolist(), guesses, added, strict=True)
    of_product = zip(owner, block.image_index.tolist(), strict=True)
    return {
        key: ImagePrediction(*image, error=None)
        for key, image in zip(of_product, images, strict=True)
    }


def by_class(block: PredictionBlock) -> Float32[np.ndarray, "b k"]:
    """The probabilities of all categories, in their own order."""
    found = np.empty(block.top_class.shape, np.float32)
    np.put_along_axis(found, block.top_class, block.top_probability, axis=1)
    return found
