"""The products that the compared runs answer differently, with thumbnails of their images."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from jaxtyping import Int64

from product_mil.compare.answers import Answers, Questions
from product_mil.data.products import pixels_of
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.top_classes import CONTRIBUTION, PredictionFile
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.categories import Categories, path_of
from product_mil.sources.ids import Id, Ids
from product_mil.sources.lookup import rows_of

MAX_PRODUCTS = 1000
MAX_THUMBNAILS_BYTES = 16_000_000  # of JPEG; base64 adds a third, so the page stays below 25 MB
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
    """What a model says of one product, in the form that the page shows."""

    top: list[tuple[Id, float]]  # category id and probability, the most probable first
    attention: dict[int, float]  # by `image_index`
    image_guess: dict[int, Id]  # category id, by `image_index`
    # What each image adds to the logit of the first of `top`, by `image_index`; empty where the
    # logits are not a sum over images.
    contribution: dict[int, float] = field(default_factory=dict)


def details_of(block: PredictionBlock, class_ids: Ids[np.ndarray, " k"]) -> Iterator[Detail]:
    """The details of each product of a block, in order."""
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


def details_in(file: PredictionFile, product_ids: Ids[np.ndarray, " r"]) -> list[Detail]:
    """What a prediction file says of some of its products."""
    rows = rows_of(file.ids("product_id"), product_ids)  # every id is there
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
    """The products to show, and the number of all products of each kind."""

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

    They are drawn evenly from strata by kind of change, level-1 category and number of images, with
    at least one of each stratum while there is room. Equal arguments give equal products.
    """
    of_a, of_b = a.guess == questions.category_id, b.guess == questions.category_id
    changed = np.flatnonzero(of_a != of_b)
    fixed = of_a[changed]
    level1 = categories.groups[0][categories.class_of(questions.category_id[changed])]
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


class Thumbnails:
    """Thumbnails of images as data URIs. A thumbnail that recurs is kept once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._number: dict[bytes, int] = {}
        self.uris: list[str] = []
        self.num_bytes = 0

    def of_product(self, row: int) -> list[int | None]:
        """The index in `uris` of each image of a product; None where an image can't be read."""
        return [self._of_image(image) for image in self._catalogue.image_rows_of(row)]

    def _of_image(self, image: int) -> int | None:
        pixels = pixels_of(self._catalogue, image, THUMBNAIL_PX)
        if isinstance(pixels, str):
            return None
        # Encoding again keeps everything else of the file, such as its metadata, out of the page.
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
    """The gallery as plain values: cards, thumbnails, and the names that they refer to.

    `details` and `answers` are those of the two entries compared. Without details (None) a card
    shows the first guess alone; without a catalogue it has no images. No more cards are added once
    the thumbnails fill `MAX_THUMBNAILS_BYTES`.
    """
    thumbnails = Thumbnails(catalogue) if catalogue is not None else None
    found: list[dict[str, Any]] = []
    named: set[Id] = set()
    # In random order, so that stopping early leaves out products of all strata alike.
    for place in np.random.default_rng(1).permutation(len(selection.rows)).tolist():
        if thumbnails is not None and thumbnails.num_bytes > MAX_THUMBNAILS_BYTES:
            break
        row = int(selection.rows[place])
        true = questions.category_id[row].item()
        card: dict[str, Any] = {
            "place": place,
            "id": str(questions.product_id[row]),  # as text: JavaScript rounds large numbers
            "kind": selection.kinds[place],
            "true": true,
            "images": None if questions.num_images is None else int(questions.num_images[row]),
            "pictures": []
            if thumbnails is None or data_rows is None
            else thumbnails.of_product(int(data_rows[row])),
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
        "pictures": thumbnails.uris if thumbnails is not None else [],
        "names": {
            str(category): path_of(categories, category) for category in sorted(named, key=str)
        },
    }


def _guess(answers: Answers, row: int) -> tuple[Id, float | None]:
    """The category of the first guess, and its probability where that is known."""
    confidence = answers.confidence
    return answers.guess[row].item(), None if confidence is None else float(confidence[row])
