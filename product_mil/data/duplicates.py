"""Find identical images: in several products, in two sets of products, and placeholders."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64

from product_mil.errors import UserError
from product_mil.sources.catalogue import Catalogue, Unread

MAX_LINKING_PRODUCTS = 20  # an image in more products is a placeholder rather than a duplicate
_SMALL_CATALOGUE_IMAGES = 100_000


class ImageGroups(NamedTuple):
    """Images sorted by their content hash, in G groups of identical ones."""

    image_row: Int64[np.ndarray, " M"]  # ascending within a group
    product_row: Int32[np.ndarray, " M"]  # the product of each image
    start: Int64[np.ndarray, " G"]  # the place in these two columns at which each group begins
    num_products: Int64[np.ndarray, " G"]  # number of distinct products with the image


def group_images(
    image_hash: UInt64[np.ndarray, "M 2"], product: Int32[np.ndarray, " M"]
) -> ImageGroups:
    """Group images by their 128-bit hash. `product` has the product of each image, ascending."""
    image = np.argsort(image_hash[:, 0], kind="stable")
    high, low = image_hash[image, 0], image_hash[image, 1]
    new = np.ones(len(image), bool)
    new[1:] = high[1:] != high[:-1]
    if np.any(~new[1:] & (low[1:] != low[:-1])):  # different images whose first 64 bits agree
        image = np.lexsort((image_hash[:, 1], image_hash[:, 0]))
        high, low = image_hash[image, 0], image_hash[image, 1]
        new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    del high, low
    product = product[image]
    start = np.flatnonzero(new)
    new[1:] |= product[1:] != product[:-1]
    num_products = np.add.reduceat(new, start, dtype=np.int64) if len(start) else start
    return ImageGroups(image, product, start, num_products)


def product_of_images(catalogue: Catalogue) -> Int32[np.ndarray, " M"]:
    """The row of the product that each image belongs to."""
    rows = np.arange(catalogue.num_products, dtype=np.int32)
    return np.repeat(rows, catalogue.num_images)


def with_bytes(catalogue: Catalogue) -> Bool[np.ndarray, " M"]:
    """Which images have any bytes. Images without bytes do not count as identical."""
    return np.asarray(catalogue.image_length_bytes) > 0


def hashes_of(catalogue: Catalogue) -> UInt64[np.ndarray, "M 2"]:
    """The content hashes of images; the catalogue must have been opened with them."""
    if catalogue.image_hash is None:
        raise ValueError("open the catalogue with hash_images=True")
    return catalogue.image_hash


def shared_with(
    catalogue_a: Catalogue,
    rows_a: Int64[np.ndarray, " a"],
    catalogue_b: Catalogue,
    rows_b: Int64[np.ndarray, " b"],
) -> int:
    """The number of products of b that have an image in common with some product of a."""
    return int(sharing_products(catalogue_a, rows_a, catalogue_b, rows_b).sum())


def sharing_products(
    catalogue_a: Catalogue,
    rows_a: Int64[np.ndarray, " a"],
    catalogue_b: Catalogue,
    rows_b: Int64[np.ndarray, " b"],
) -> Bool[np.ndarray, " b"]:
    """Which products of b have an image in common with some product of a."""
    hashes, owners = [], []
    for catalogue, rows in ((catalogue_a, rows_a), (catalogue_b, rows_b)):
        wanted = np.zeros(catalogue.num_products, bool)
        wanted[rows] = True
        chosen = np.repeat(wanted, catalogue.num_images) & with_bytes(catalogue)
        hashes.append(hashes_of(catalogue)[chosen])
        owners.append(product_of_images(catalogue)[chosen])
    from_a = len(hashes[0])
    product = np.concatenate([np.full(from_a, -1, np.int32), owners[1]])  # a: one product, -1
    groups = group_images(np.concatenate(hashes), product)
    in_a = groups.product_row[groups.start] == -1 if from_a else np.zeros(len(groups.start), bool)
    sizes = np.diff(groups.start, append=len(groups.image_row))
    shared = np.unique(groups.product_row[np.repeat(in_a, sizes)])
    return np.isin(rows_b, shared)


def drop_images(catalogue: Catalogue, md5_hex: Sequence[str]) -> Bool[np.ndarray, " M"]:
    """Which images have one of the given MD5 sums, such as placeholders.

    The index has another hash, so one image of each group of identical images is read. Groups in
    most products come first, until every sum is found. In a catalogue of more than 100,000 distinct
    images only groups in more than 20 products are read.

    Raises:
        UserError: a sum is malformed, or a file cannot be read.
    """
    wanted = {text.strip().lower() for text in md5_hex}
    for text in wanted:
        if not re.fullmatch(r"[0-9a-f]{32}", text):
            raise UserError(f"{text!r} is no md5 sum; give 32 hexadecimal digits")
    drop = np.zeros(catalogue.num_images_total, bool)
    groups = group_images(hashes_of(catalogue), product_of_images(catalogue))
    candidates = np.argsort(-groups.num_products, kind="stable")
    if len(candidates) > _SMALL_CATALOGUE_IMAGES:
        candidates = candidates[groups.num_products[candidates] > MAX_LINKING_PRODUCTS]
    stop = np.append(groups.start[1:], len(groups.image_row))
    for group in candidates.tolist():
        if not wanted:
            break
        images = groups.image_row[groups.start[group] : stop[group]]
        (data,) = catalogue.read(images[:1])
        if isinstance(data, Unread):
            place = catalogue.place_of_image(int(images[0]))
            raise UserError(f"cannot read {place.file}: {data.detail}")
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 in wanted:
            wanted.remove(md5)
            drop[images] = True
    return drop
