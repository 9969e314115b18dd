"""The products that the compared runs answer differently, with small pictures of their images."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from jaxtyping import Int64

from product_mil.compare.answers import Answers, Questions
from product_mil.data.decode import decode_images, is_remark
from product_mil.inference.files import CONTRIBUTION, PredictionFile
from product_mil.inference.predictions import PredictionBlock
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.categories import Categories, path_of
from product_mil.sources.lookup import rows_of

MAX_PRODUCTS = 1000
MAX_PICTURES_BYTES = 16_000_000  # of JPEG; a third more in the page, which stays below 25 MB
THUMBNAIL_PX = 112
FIXED, BROKE = "fixed", "broke"
DETAIL_COLUMNS = (
    "product_id",
    "top_category_id",
    "top_probability",
    "image_index",
    "image_attention",
    "image_category_id",
    CONTRIBUTION,
)


@dataclass(frozen=True)
class Detail:
    """What a model says of one product, for people."""

    top: list[tuple[int, float]]  # category id and probability, the most probable first
    attention: dict[int, float]  # by `image_index`
    image_guess: dict[int, int]  # category id, by `image_index`
    # To the logit of the first of `top`, by `image_index`; empty where the model is no sum.
    contribution: dict[int, float] = field(default_factory=dict)


def details_of(block: PredictionBlock, class_ids: Int64[np.ndarray, " k"]) -> Iterator[Detail]:
    """The products of a block, one after the other."""
    stops = np.cumsum(block.num_readable_images)
    for row, stop in enumerate(stops.tolist()):
        images = slice(stop - int(block.num_readable_images[row]), stop)
        index = block.image_index[images].tolist()
        added = [] if block.contribution is None else block.contribution[images].tolist()
        yield Detail(
            top=list(
                zip(
                    class_ids[block.top_class[row]].tolist(),
                    block.top_probability[row].tolist(),
                    strict=True,
                )
            ),
            attention=dict(zip(index, block.attention[images].tolist(), strict=True)),
            image_guess=dict(
                zip(index, class_ids[block.image_top_class[images]].tolist(), strict=True)
            ),
            contribution=dict(zip(index, added, strict=bool(added))),
        )


def details_in(file: PredictionFile, product_ids: Int64[np.ndarray, " r"]) -> list[Detail]:
    """What a prediction file says of some of its products."""
    rows = rows_of(file.column("product_id"), product_ids)  # every id is there
    chosen = file.table.take(pa.array(rows)).to_pylist()
    return [
        Detail(
            top=list(zip(row["top_category_id"], row["top_probability"], strict=True))[:5],
            attention=dict(zip(row["image_index"], row["image_attention"], strict=True)),
            image_guess=dict(zip(row["image_index"], row["image_category_id"], strict=True)),
            contribution=dict(zip(row["image_index"], row[CONTRIBUTION] or [], strict=False)),
        )
        for row in chosen
    ]


@dataclass(frozen=True, eq=False)
class Selection:
    """The products to show, and how many of each kind there are in all."""

    rows: Int64[np.ndarray, " r"]
    kinds: list[str]  # FIXED or BROKE, of each row
    totals: dict[str, int]


def select(
    questions: Questions,
    a: Answers,
    b: Answers,
    categories: Categories,
    *,
    limit: int = MAX_PRODUCTS,
) -> Selection:
    """At most `limit` of the products that only one of a and b gets right.

    Drawn evenly from strata by kind of change, level-1 category and number of images, at least
    one of each while there is room; the same ones each time.
    """
    of_a, of_b = a.guess == questions.category_id, b.guess == questions.category_id
    changed = np.flatnonzero(of_a != of_b)
    fixed = of_a[changed]
    level1 = categories.level1[categories.class_of(questions.category_id[changed])]
    count = np.zeros(len(changed), np.int32)
    if questions.num_images is not None:
        count = questions.num_images[changed]
    strata = np.stack([fixed, level1, count], 1)
    _, stratum = np.unique(strata, axis=0, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(changed))
    order = order[np.argsort(stratum[order], kind="stable")]
    size = np.bincount(stratum)
    place = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    share = (place + 0.5) / size[stratum[order]]
    share[place == 0] -= 1
    kept = np.sort(order[np.argsort(share, kind="stable")[:limit]])
    return Selection(
        rows=changed[kept],
        kinds=[FIXED if value else BROKE for value in fixed[kept]],
        totals={FIXED: int(fixed.sum()), BROKE: int((~fixed).sum())},
    )


class Pictures:
    """Thumbnails as data URIs; a picture that recurs is held once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._number: dict[bytes, int] = {}
        self.uris: list[str] = []
        self.num_bytes = 0

    def of_product(self, row: int) -> list[int | None]:
        """The number in `uris` of each picture of a product; None where it can't be read."""
        catalogue = self._catalogue
        first = int(catalogue.first_image[row])
        return [self._of_image(first + i) for i in range(int(catalogue.num_images[row]))]

    def _of_image(self, image: int) -> int | None:
        pixels = np.empty((THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
        reason = decode_images(self._catalogue.read(np.array([image])), [pixels]).get(0)
        if reason is not None and not is_remark(reason):
            return None
        # Encoded anew: nothing of the file itself, such as its metadata, gets into the page.
        jpeg = simplejpeg.encode_jpeg(pixels, quality=72, colorsubsampling="420")
        if jpeg not in self._number:
            self._number[jpeg] = len(self.uris)
            self.uris.append("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())
            self.num_bytes += len(jpeg)
        return self._number[jpeg]


def cards(
    questions: Questions,
    selection: Selection,
    details: Mapping[str, Sequence[Detail] | None],
    answers: Mapping[str, Answers],
    categories: Categories,
    catalogue: Catalogue | None,
    data_rows: Int64[np.ndarray, " N"] | None,
) -> dict[str, Any]:
    """The gallery as plain values: cards, pictures, and the names that they refer to.

    `details` and `answers` are those of the two runs compared; details may be None, and a
    catalogue too: then a card has no images. Stops where the pictures fill `MAX_PICTURES_BYTES`.
    """
    pictures = Pictures(catalogue) if catalogue is not None else None
    found: list[dict[str, Any]] = []
    named: set[int] = set()
    # One in turn of each place of the order, so that a stop cuts all strata alike.
    for place in np.random.default_rng(1).permutation(len(selection.rows)).tolist():
        if pictures is not None and pictures.num_bytes > MAX_PICTURES_BYTES:
            break
        row = int(selection.rows[place])
        true = int(questions.category_id[row])
        card: dict[str, Any] = {
            "place": place,
            "id": str(questions.product_id[row]),  # as text: JavaScript rounds large numbers
            "kind": selection.kinds[place],
            "true": true,
            "images": None if questions.num_images is None else int(questions.num_images[row]),
            "pictures": []
            if pictures is None or data_rows is None
            else pictures.of_product(int(data_rows[row])),
            "runs": {},
        }
        named.add(true)
        for name, own in answers.items():
            detail = details[name]
            listed = detail[place] if detail is not None else None
            top = listed.top if listed and listed.top else [_guess(own, row)]
            guesses = listed.image_guess if listed else {}
            named.update(category for category, _ in top)
            named.update(guesses.values())
            card["runs"][name] = {
                "top": [[c, None if p is None else round(p, 4)] for c, p in top],
                "attention": {k: round(v, 3) for k, v in listed.attention.items()}
                if listed
                else {},
                "adds": {k: round(v, 2) for k, v in listed.contribution.items()} if listed else {},
                "alone": guesses,
            }
        found.append(card)
    found.sort(key=lambda card: card.pop("place"))
    return {
        "cards": found,
        "pictures": pictures.uris if pictures is not None else [],
        "names": {str(category): path_of(categories, category) for category in sorted(named)},
    }


def _guess(answers: Answers, row: int) -> tuple[int, float | None]:
    """The first guess and its probability, where that is known."""
    confidence = answers.confidence
    return int(answers.guess[row]), None if confidence is None else float(confidence[row])
