"""The split into training and validation products, with identical images on one side."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from product_mil.data.duplicates import (
    MAX_LINKING_PRODUCTS,
    group_images,
    hashes_of,
    product_of_images,
    with_bytes,
)
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.ids import Ids, numbers_of


@dataclass(frozen=True, eq=False)
class Split:
    """The product rows of each part, ascending, and the links that were found."""

    train_rows: Int64[np.ndarray, " t"]
    valid_rows: Int64[np.ndarray, " v"]
    num_linked: int  # products that share an image (or their id) with another one
    popular_images: Int64[np.ndarray, " q"]  # one row of each image in too many products to link
    popular_num_products: Int64[np.ndarray, " q"]  # how many products these are in


def split_products(
    catalogue: Catalogue,
    *,
    valid_fraction: float,
    seed: int,
    max_products: int = 0,
    ignored_images: Bool[np.ndarray, " M"] | None = None,
) -> Split:
    """Split the products, or a random `max_products` of them (0: all), by the seed.

    Products that share an image or an id are one component, and stay in one part. Images in more
    than 20 products do not link these, and are listed; nor do images in the mask `ignored_images`.
    The validation part has as many products as whole components allow, up to the fraction.
    Components are taken evenly from all categories, and the last product of a category is never
    taken.

    Random numbers are hashes of seed and product id. So the split depends neither on the order of
    records nor on the files that hold them, and a smaller `max_products` gives a subset.
    """
    key = _keyed_hash(catalogue.product_id, seed)
    rows = np.arange(catalogue.num_products)
    if 0 < max_products < len(rows):
        order = np.argsort(_keyed_hash(catalogue.product_id, seed, purpose=1), kind="stable")
        rows = np.sort(order[:max_products])
    component, popular, popular_num_products = _link(catalogue, rows, ignored_images)
    key, category = key[rows], catalogue.category_id[rows]
    valid = _choose(component, key, category, round(valid_fraction * len(rows)), seed)
    size = np.bincount(component)
    return Split(
        train_rows=rows[~valid],
        valid_rows=rows[valid],
        num_linked=int(size[size > 1].sum()),
        popular_images=popular,
        popular_num_products=popular_num_products,
    )


def _link(
    catalogue: Catalogue, rows: Int64[np.ndarray, " n"], ignored: Bool[np.ndarray, " M"] | None
) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " q"], Int64[np.ndarray, " q"]]:
    """The component of each row, the images in too many products to link, and their products."""
    wanted = np.zeros(catalogue.num_products, bool)
    wanted[rows] = True
    chosen = np.repeat(wanted, catalogue.num_images) & with_bytes(catalogue)
    if ignored is not None:
        chosen &= ~ignored
    place = (np.cumsum(wanted) - 1).astype(np.int32)  # in `rows`, of each product in it
    product = place[product_of_images(catalogue)[chosen]]
    groups = group_images(hashes_of(catalogue)[chosen], product)
    popular = np.flatnonzero(groups.num_products > MAX_LINKING_PRODUCTS)
    popular = popular[np.argsort(-groups.num_products[popular], kind="stable")]
    popular_images = np.flatnonzero(chosen)[groups.image_row[groups.start[popular]]]

    # Link the products of each group in a chain, and the products of each id in another.
    linking = (groups.num_products > 1) & (groups.num_products <= MAX_LINKING_PRODUCTS)
    linked = np.repeat(linking, np.diff(groups.start, append=len(groups.image_row)))
    linked[groups.start] = False  # the image before these belongs to another group
    by_image = np.flatnonzero(linked)
    product_id = catalogue.product_id[rows]
    order = np.argsort(product_id, kind="stable").astype(np.int32)
    by_id = np.flatnonzero(product_id[order][1:] == product_id[order][:-1])
    ends = (
        np.concatenate([groups.product_row[by_image - 1], order[by_id]]),
        np.concatenate([groups.product_row[by_image], order[by_id + 1]]),
    )
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(len(rows), len(rows)))
    _, component = connected_components(graph, directed=False)
    return component, popular_images, groups.num_products[popular]


def _choose(
    component: Int32[np.ndarray, " n"],
    key: UInt64[np.ndarray, " n"],
    category: Ids[np.ndarray, " n"],
    target: int,
    seed: int,
) -> Bool[np.ndarray, " n"]:
    """Choose up to `target` products for validation, in whole components."""
    # Number the components by their least key, which decides between equals below.
    order = np.argsort(key, kind="stable")
    earliest = np.empty(component.max(initial=-1) + 1, np.int64)
    earliest[component[order[::-1]]] = np.arange(len(order))[::-1]  # the last write stays
    head = order[np.sort(earliest)]  # the product with the least key, of each component
    number = np.empty(len(head), np.int64)
    number[component[head]] = np.arange(len(head))
    component = number[component]
    size = np.bincount(component)

    # A component belongs to the category of its head, and gets a score from 0 to 1 within it.
    # Taking the lowest scores then takes from all categories evenly.
    of_category = np.argsort(category[head], kind="stable")
    ordered = category[head][of_category]
    start = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    num_components = np.diff(start, append=len(ordered))
    before = np.cumsum(size[of_category]) - size[of_category]
    total = np.diff(before[start], append=len(order))
    offset = (_keyed_hash(ordered[start], seed, purpose=2) >> np.uint64(11)) * 2.0**-53
    before -= np.repeat(before[start], num_components)
    share = before + np.repeat(offset, num_components) * size[of_category]
    score = np.empty(len(size))
    score[of_category] = share / np.repeat(total, num_components)
    allowed = np.empty(len(size), bool)
    allowed[of_category] = np.repeat(num_components > 1, num_components)
    in_order = np.argsort(score, kind="stable")
    while True:
        candidates = in_order[allowed[in_order]]
        chosen = np.zeros(len(size), bool)
        chosen[_fill(candidates, size, target)] = True
        valid = chosen[component]
        lost = np.setdiff1d(category[valid], category[~valid])
        if not len(lost):
            return valid
        allowed[component[np.isin(category, lost)]] = False


def _fill(
    candidates: Int64[np.ndarray, " c"], size: Int64[np.ndarray, " C"], target: int
) -> Int64[np.ndarray, " c2"]:
    """Take components in order, leaving out those that no longer fit."""
    taken = []
    while True:
        candidates = candidates[size[candidates] <= target]
        fit = int(np.searchsorted(np.cumsum(size[candidates]), target, side="right"))
        if not fit:
            return np.concatenate([*taken, candidates[:0]])
        taken.append(candidates[:fit])
        target -= int(size[candidates[:fit]].sum())
        candidates = candidates[fit:]


def _keyed_hash(
    ids: Ids[np.ndarray, " N"], seed: int, purpose: int = 0
) -> UInt64[np.ndarray, " N"]:
    """64 random bits for each id, by splitmix64 (Steele, Lea and Flood 2014) with two keys."""
    bits = numbers_of(ids)
    for key in (seed, purpose):
        bits = bits + np.uint64((key + 1) * 0x9E3779B97F4A7C15 % 2**64)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return bits
