"""The rules by which several answers become one: their names, and what they do in words."""

from typing import Literal, get_args

Rule = Literal["average", "geometric_mean", "vote"]
RULES: tuple[Rule, ...] = get_args(Rule)  # of the answers of several models
IMAGE_RULES = {  # of the answers to the images of a product
    "geometric_mean": "mean of the images' log-probabilities",
    "maximum": "largest probability on any image",
    "vote": "each image has one vote",
    "first_image": "the first image alone",
}
