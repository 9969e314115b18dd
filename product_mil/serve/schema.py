"""What goes over the wire: requests and answers as JSON, with the examples of the OpenAPI text."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from product_mil.sources.ids import Id

# One pixel, as a GIF.
_IMAGE = "R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="
_CHAIR = {"category_id": 1000010653, "names": ["HOME", "FURNITURE", "CHAIR"], "probability": 0.83}
MAX_TOPK = 1000


def _with_example(**values: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [values]})


class AskedProduct(BaseModel):
    """A product of a JSON request."""

    model_config = _with_example(id="sku 7", images=[_IMAGE])

    id: StrictInt | str | None = Field(
        None, description="any text or integer; it comes back with the answer"
    )
    images: list[str] = Field(description="image files in base64, in the order of the shop")


class Options(BaseModel):
    """What is asked about each product of a request."""

    model_config = _with_example(topk=5, min_confidence=0.9, beside=False)

    topk: Annotated[int, Field(ge=1, le=MAX_TOPK)] = Field(5, description="how many categories")
    min_confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="also name the category or group that is at least this sure"
    )
    beside: bool = Field(False, description="ask the second model too, where there is one")


class PredictRequest(Options):
    """Products to classify, as JSON."""

    model_config = _with_example(
        products=[{"id": "sku 7", "images": [_IMAGE]}], topk=5, min_confidence=None, beside=False
    )

    products: list[AskedProduct]


class PredictForm(Options):
    """One product as a form: `multipart/form-data` with a file for each image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | None = Field(None, description="any text; it comes back with the answer")
    images: list[Annotated[str, Field(json_schema_extra={"format": "binary"})]] = Field(
        description="image files, in the order of the shop"
    )


class Answer(BaseModel):
    """Every part of an answer has exactly the fields that are declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Category(Answer):
    """A category of the model."""

    category_id: Id
    names: tuple[str, ...] = Field(description="the path in the tree, from level 1 down")


class LikelyCategory(Category):
    """A category of a product, with its probability."""

    model_config = _with_example(**_CHAIR)

    probability: float = Field(description="the model's own, not calibrated")


class Sure(Answer):
    """The category, or the smallest group, that is at least `min_confidence` sure."""

    level: int = Field(description="the last level: a category; above it: a group; 0: none")
    category_id: Id | None
    names: tuple[str, ...]
    probability: float = Field(description="calibrated")


class Image(Answer):
    """What an image did for the answer."""

    attention: float = Field(description="sums to 1 over the images that were used")
    category_id: Id | None = Field(description="the guess from this image alone")
    names: tuple[str, ...] | None
    contribution: float | None = Field(
        description="what it adds to the logit of the first category, where logits are sums"
    )
    error: str | None = Field(description="why it was not used")


class Product(Answer):
    """The answer for a product."""

    model_config = _with_example(
        id="sku 7",
        categories=[_CHAIR],
        confidence=0.79,
        sure={**_CHAIR, "level": 3},
        images=[
            {
                "attention": 1.0,
                "category_id": 1000010653,
                "names": ["HOME", "FURNITURE", "CHAIR"],
                "contribution": 1.2,
                "error": None,
            }
        ],
        from_prior=False,
    )

    id: Id | None
    categories: tuple[LikelyCategory, ...] = Field(description="the most probable one first")
    confidence: float | None = Field(description="calibrated, of the first category")
    sure: Sure | None = Field(description="where `min_confidence` was given")
    images: tuple[Image, ...] = Field(description="one for each image given, in order")
    from_prior: bool = Field(description="no image could be used")


class PredictAnswer(Answer):
    """The answers for the products of a request, in order."""

    products: tuple[Product, ...]
    beside: tuple[Product, ...] | None = Field(description="those of the second model, if asked")


class Model(Answer):
    """A model that the server holds."""

    name: str
    summary: str
    pooling: str
    backbone: str
    calibrated: bool
    sums_over_images: bool


class ModelAnswer(Answer):
    """The models, and what can be asked of them."""

    model: Model
    beside: Model | None
    max_images: int = Field(description="of a product, which the model uses")
    max_images_accepted: int
    max_products: int = Field(description="of a request")
    max_image_bytes: int
    max_request_bytes: int
    image_size_px: int
    num_categories: int
    levels: int


class CategoriesAnswer(Answer):
    """Categories of the model, and how many there are of them in all."""

    categories: tuple[Category, ...]
    total: int


class Example(Answer):
    """A product to try the model on."""

    number: int
    id: str
    names: tuple[str, ...] | None = Field(description="the path of its category, if it is known")
    images: tuple[str, ...] = Field(description="where the images are")


class ExamplesAnswer(Answer):
    """Products to try the model on; there may be none."""

    examples: tuple[Example, ...]


class Health(Answer):
    """Whether the server answers questions."""

    status: str


class Refusal(Answer):
    """Why a request is not answered."""

    model_config = _with_example(detail="the body is no JSON: EOF while parsing, at line 1")

    detail: str = Field(description="one line that says what to do")
