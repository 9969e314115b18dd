"""What a classifier is asked about a product, and what it answers."""

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from product_mil.data.given import GivenProduct
from product_mil.sources.ids import Id


class Question(NamedTuple):
    """A product to classify, and what is asked about it."""

    images: GivenProduct
    topk: int = 5
    min_confidence: float | None = None  # from 0 to 1; asks for `Prediction.sure`


@dataclass(frozen=True)
class ImagePrediction:
    """What an image did for the prediction of its product.

    An image that was not used has an error, attention 0, and no guess of its own.
    """

    attention: float  # sums to 1 over the images of a product that were used
    category_id: Id | None  # the guess from this image alone
    # What the image adds to the logit of the product's first category, where the model's logits are
    # a sum over images: together that logit minus the mean over all categories.
    contribution: float | None
    error: str | None  # why it was not used


@dataclass(frozen=True)
class SureAnswer:
    """The category of a product, or the smallest group in the tree, that is sure enough."""

    # The last level of the tree (3 of 3, say): the category itself; from there up to 1: a group of
    # categories; 0: no group is sure enough.
    level: int
    category_id: Id | None  # at the last level
    names: tuple[str, ...]  # the path in the tree, from level 1 down to `level`
    probability: float  # calibrated: that the product belongs there


@dataclass(frozen=True)
class Prediction:
    """The most probable categories of a product, the first one first."""

    category_ids: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]  # of each its path in the tree, from level 1 down
    probabilities: tuple[float, ...]
    # The calibrated probability of the first category: of products with 0.8, about 80 % are right.
    # None where the run does not say how to calibrate.
    confidence: float | None
    sure: SureAnswer | None  # where `min_confidence` was given
    images: tuple[ImagePrediction, ...]  # one for each image that was given, in order
    from_prior: bool  # no image could be used: these are the most frequent categories in training

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, strings, numbers, booleans and None: plain JSON."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a classifier's model."""

    name: str  # of the directory that it was loaded from
    pooling: str
    backbone: str
    image_size_px: int
    max_images: int  # of a product that are used; further ones are not
    levels: int  # of the tree of categories
    is_calibrated: bool
    sums_over_images: bool  # so that each image has a contribution
    batch_images: int  # in the largest batch of a call
