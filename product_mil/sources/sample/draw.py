"""The embedded sample: a procedural product catalogue as BSON and category_names.csv.

It has what makes products with several photos worth a joint model: accessories that come with
products of many categories and are products of their own, and categories that are combinations,
whose photos show one member each. A single photo is then often ambiguous where the set is not.
"""

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bson
import numpy as np
import simplejpeg

from product_mil.errors import UserError
from product_mil.files.cache import cache_root, temporary_cache, writable_cache
from product_mil.files.whole import draft_directory, whole_directory
from product_mil.sources.sample.accessories import (
    batteries,
    cable,
    cloth,
    gift_box,
    pouch,
    warranty_card,
)
from product_mil.sources.sample.gear import (
    camera,
    glasses,
    guitar,
    hammer,
    handbag,
    headphones,
    phone_case,
    saw,
    scissors,
    sneaker,
    t_shirt,
    umbrella,
)
from product_mil.sources.sample.home import (
    bottle,
    chair,
    clock,
    frying_pan,
    lamp,
    mug,
    teapot,
)
from product_mil.sources.sample.render import Studio
from product_mil.sources.sample.shapes import Part, Style

VERSION = 2  # part of the cache's name; increase it when a seed gives another catalogue
IMAGES_SHARES = (0.618, 0.160, 0.077, 0.146)  # of products with 1 .. 4 images, as on Cdiscount
COMBINATION_SHARE = 0.3  # of the products with several images
ACCESSORY_SHARE = 0.7  # of the images that may show an accessory
JPEG_QUALITY = 85
MAX_TURN_DEG = 8.0

Draw = Callable[[Style], list[Part]]


@dataclass(frozen=True)
class Category:
    """A category: its names, the parts of its products, and accessories that may come with them."""

    names: tuple[str, str, str]
    members: tuple[Draw, ...]  # two for a combination
    accessories: tuple[Draw, ...]


def _categories() -> list[Category]:
    rows: list[tuple[str, str, str, tuple[Draw, ...], tuple[Draw, ...]]] = [
        ("KITCHEN", "TEA", "MUG", (mug,), (gift_box, warranty_card)),
        ("KITCHEN", "TEA", "TEA SET: POT AND MUG", (teapot, mug), (warranty_card,)),
        ("KITCHEN", "TEA", "TEAPOT", (teapot,), (gift_box, cloth)),
        ("KITCHEN", "COOKWARE", "FRYING PAN", (frying_pan,), (cloth, warranty_card)),
        ("KITCHEN", "COOKWARE", "DRINKING BOTTLE", (bottle,), (pouch, gift_box)),
        ("HOME", "LIGHTING", "TABLE LAMP", (lamp,), (cable, warranty_card)),
        ("HOME", "DECORATION", "CLOCK", (clock,), (batteries, gift_box)),
        ("HOME", "FURNITURE", "CHAIR", (chair,), (cloth, warranty_card)),
        ("HOME", "DECORATION", "GIFT BOX", (gift_box,), (warranty_card,)),
        ("HOME", "CARE", "CLEANING CLOTH", (cloth,), (warranty_card, gift_box)),
        ("ELECTRONICS", "PHONES", "PHONE CASE", (phone_case,), (cloth, gift_box)),
        ("ELECTRONICS", "PHONES", "CASE AND CABLE KIT", (phone_case, cable), (gift_box,)),
        ("ELECTRONICS", "PHONES", "CHARGING CABLE", (cable,), (warranty_card, pouch)),
        ("ELECTRONICS", "PHOTO", "CAMERA", (camera,), (batteries, cloth, cable)),
        ("ELECTRONICS", "PHOTO", "CAMERA AND POUCH KIT", (camera, pouch), (batteries,)),
        ("ELECTRONICS", "AUDIO", "HEADPHONES", (headphones,), (cable, pouch)),
        ("ELECTRONICS", "POWER", "BATTERIES", (batteries,), (warranty_card, gift_box)),
        ("FASHION", "SHOES", "SNEAKERS", (sneaker,), (gift_box, pouch)),
        ("FASHION", "CLOTHES", "T-SHIRT", (t_shirt,), (gift_box, warranty_card)),
        ("FASHION", "CLOTHES", "SPORTS OUTFIT: T-SHIRT AND SNEAKERS", (t_shirt, sneaker), ()),
        ("FASHION", "ACCESSORIES", "GLASSES", (glasses,), (cloth, pouch)),
        ("FASHION", "ACCESSORIES", "UMBRELLA", (umbrella,), (pouch, gift_box)),
        ("FASHION", "ACCESSORIES", "HANDBAG", (handbag,), (pouch, warranty_card)),
        ("HOBBY", "MUSIC", "GUITAR", (guitar,), (cloth, pouch, cable)),
        ("HOBBY", "MUSIC", "PRACTICE SET: GUITAR AND HEADPHONES", (guitar, headphones), ()),
        ("HOBBY", "TOOLS", "HAMMER", (hammer,), (warranty_card, gift_box)),
        ("HOBBY", "TOOLS", "SAW", (saw,), (cloth, warranty_card)),
        ("HOBBY", "TOOLS", "TOOL SET: HAMMER AND SAW", (hammer, saw), (gift_box,)),
        ("HOBBY", "CRAFTS", "SCISSORS", (scissors,), (pouch, warranty_card)),
    ]
    return [Category(row[:3], row[3], row[4]) for row in rows]


CATEGORIES = _categories()
# Ids like Cdiscount's: ten digits, in another order than the rows.
CATEGORY_IDS = [1_000_000_000 + 7919 * (row + 1) % 20_011 for row in range(len(CATEGORIES))]


@dataclass(frozen=True)
class SampleFiles:
    """The files of a catalogue."""

    train: Path
    categories: Path


def ensure_sample(seed: int, cache_dir: Path | None = None) -> SampleFiles:
    """Return the catalogue of `seed`, writing it on first use (about ten seconds).

    It is kept under `cache_dir`, by default `cache_root()`, or a temporary directory where that
    cannot be written. Two processes may ask at once. Raises `UserError` where nothing can be
    written or the seed is negative.
    """
    if seed < 0:
        raise UserError(f"sample seed {seed}: give a whole number from 0")
    name = f"sample-v{VERSION}-{seed}"
    root = cache_dir or cache_root()
    if not (root / name).is_dir():
        root = cache_dir or writable_cache()
    directory = root / name
    if not directory.is_dir():
        try:
            logging.getLogger(__name__).info(
                "drawing the embedded sample (once, about 15 s) into %s", directory
            )
            with whole_directory(directory) as draft:
                write_sample(draft, seed=seed)
        except OSError as error:
            if cache_dir is None and root != temporary_cache():  # it has room for little
                return ensure_sample(seed, temporary_cache())
            raise UserError(
                f"{root}: cannot write the sample there ({error.strerror}); "
                "set PRODUCT_MIL_CACHE to a directory with 30 MB of room"
            ) from error
    return SampleFiles(directory / "train.bson", directory / "category_names.csv")


def write_sample(
    directory: Path, *, seed: int, num_products: int = 2000, first_id: int = 0
) -> SampleFiles:
    """Write train.bson and category_names.csv into an existing directory.

    The same arguments give the same bytes. Product ids are greater than `first_id`.
    """
    files = SampleFiles(directory / "train.bson", directory / "category_names.csv")
    with files.categories.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["category_id", *(f"category_level{level}" for level in (1, 2, 3))])
        for category_id, category in zip(CATEGORY_IDS, CATEGORIES, strict=True):
            writer.writerow([category_id, *category.names])
    rng = np.random.default_rng(seed)
    studio = Studio(rng)
    rows, num_images = draw_products(rng, num_products)
    product_ids = np.cumsum(rng.integers(1, 12, num_products))
    with files.train.open("wb") as stream:
        for product_id, row, count in zip(product_ids, rows, num_images, strict=True):
            own_rng = np.random.default_rng([seed, int(product_id)])
            pictures = take_pictures(CATEGORIES[row], int(count), studio, own_rng)
            record = {
                "_id": first_id + int(product_id),
                "category_id": CATEGORY_IDS[row],
                "imgs": [{"picture": picture} for picture in pictures],
            }
            stream.write(bson.encode(record))
    return files


def draw_products(rng: np.random.Generator, num_products: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw each product's row of `CATEGORIES` and its number of images.

    Numbers of images keep `IMAGES_SHARES`, categories are even given the number. The order is
    neither random nor sorted, like a shop's dump: neighbours are likely of one category.
    """
    bounds = np.round(np.cumsum(IMAGES_SHARES) / sum(IMAGES_SHARES) * num_products)
    num_images = 1 + np.searchsorted(bounds, np.arange(num_products), side="right")
    plain = [row for row, category in enumerate(CATEGORIES) if len(category.members) == 1]
    combined = [row for row, category in enumerate(CATEGORIES) if len(category.members) > 1]
    is_combined = (num_images > 1) & (rng.random(num_products) < COMBINATION_SHARE)
    rows = np.empty(num_products, int)
    for which, choices in ((is_combined, combined), (~is_combined, plain)):
        rows[which] = np.resize(rng.permutation(choices), which.sum())
    order = np.argsort(rows + rng.normal(scale=3, size=num_products))
    return rows[order], num_images[order]


def take_pictures(
    category: Category, num_images: int, studio: Studio, rng: np.random.Generator
) -> list[bytes]:
    """Photograph a product as JPEG files, in random order.

    Each member is shown at least once, and at most half of the photos show accessories.
    """
    members = [draw(Style(rng)) for draw in category.members]
    things = list(members)
    num_accessories = rng.binomial(num_images // 2, ACCESSORY_SHARE) if category.accessories else 0
    for _ in range(min(num_accessories, num_images - len(things))):
        draw = category.accessories[rng.integers(len(category.accessories))]
        things.append(draw(Style(rng)))
    while len(things) < num_images:
        things.append(members[rng.integers(len(members))])
    return [
        simplejpeg.encode_jpeg(
            studio.photograph(things[k], rng, MAX_TURN_DEG), quality=JPEG_QUALITY
        )
        for k in rng.permutation(num_images)
    ]


def draw_catalogue(directory: Path, *, seed: int, num_products: int) -> None:
    """Write `products.bson` and `category_names.csv` into a new directory, whole or not at all.

    No product id is one of another seed's.

    Raises:
        UserError: the directory cannot be written.
    """
    try:
        with draft_directory(directory) as draft:
            files = write_sample(draft, seed=seed, num_products=num_products, first_id=seed * 10**8)
            files.train.rename(draft / "products.bson")
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error}; choose another place") from error
