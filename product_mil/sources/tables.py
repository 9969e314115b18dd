"""Products in CSV or Parquet tables: ids, categories, and images as paths or as bytes.

A row holds a product with a list of images, or an image. Rows of one id are one product, wherever
they are; its images are in the order of the rows.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Bool, Int32, Int64

from product_mil.errors import UserError
from product_mil.progress import Progress
from product_mil.sources.catalogue import OTHER_CATEGORY, Catalogue, Fault, hashes_from
from product_mil.sources.copies import Bounded
from product_mil.sources.ids import (
    Ids,
    fault_of,
    has_id,
    is_text,
    joined,
    no_ids,
)
from product_mil.sources.image_files import Listing, Names, catalogue_of, status_of
from product_mil.sources.names import Named
from product_mil.sources.packed import IMAGES, is_whole, opened
from product_mil.sources.stored import about_faults, load_or_build
from product_mil.sources.table_file import (
    Chosen,
    choose,
    column_names,
    encoded,
    holds_bytes,
    ids_of,
    images_of,
    is_parquet,
    read_columns,
)

_NO_ID = "no usable id"  # a kind of faults
_SEVERAL = "rows of several categories: the first one counts"
_URL = re.compile(rb"[a-z][a-z0-9+]{1,9}://")
_MAX_SHOWN = 200  # bytes of a path, which may be an image in base64
_ROWS_AT_ONCE = 64  # of images that are copied


class Labels(NamedTuple):
    """Ids and categories of products, and faults that name the ids."""

    product_id: Ids[np.ndarray, " N"]
    category_id: Ids[np.ndarray, " N"]
    faults: list[tuple[Path, Fault]]


class _Products(NamedTuple):
    """Rows of tables, grouped by their ids in the order of their first rows."""

    product_id: Ids[np.ndarray, " N"]
    category_id: Ids[np.ndarray, " N"]
    product_of_row: Int64[np.ndarray, " rows"]  # -1: the row has no id
    table: Int32[np.ndarray, " N"]  # of the product's first row
    faults: list[tuple[Path, Fault]]
    bad_records: int

    def images(
        self, counts: Int64[np.ndarray, " rows"]
    ) -> tuple[Int32[np.ndarray, " N"], Int64[np.ndarray, " M"]]:
        """The number of images of each product, and all images in the order of the products."""
        owner = np.repeat(self.product_of_row, counts)
        order = np.argsort(owner, kind="stable")
        order = order[np.count_nonzero(owner < 0) :]
        return np.bincount(owner[order], minlength=len(self.table)).astype(np.int32), order


def open_tables(tables: Sequence[Named]) -> Catalogue:
    """The products of one or several tables of the same columns.

    Images that are paths are read and hashed once. Images that are bytes are copied to the cache
    once, because a Parquet file cannot be read image by image.

    Raises:
        UserError: a table cannot be read, or lacks a column.
    """
    paths = [one.path for one in tables]
    chosen = [choose(one.path, column_names(one.path), one.after) for one in tables]
    of_bytes = {holds_bytes(path, str(c.images)) for path, c in zip(paths, chosen, strict=True)}
    if len(of_bytes) > 1:
        raise UserError(f"{paths[0]}: some tables hold paths and some bytes; name them apart")
    made = _of_bytes if of_bytes == {True} else _of_paths
    catalogue = made(tables, chosen)
    uses = ", ".join(f"{use} in {name}" for use, name in chosen[0]._asdict().items() if name)
    if chosen[0].category is None:
        there = ", ".join(column_names(paths[0]))
        uses += f", no categories (of {there} none is named so; #category=NAME names another)"
    logging.getLogger(__name__).info(
        "%s: %s; %s products, %s images",
        ", ".join(str(one.shown) for one in tables),
        uses,
        f"{catalogue.num_products:,}",
        f"{catalogue.num_images_total:,}",
    )
    return catalogue


def read_labels(path: Path) -> Labels:
    """The ids and categories of products in a table without images.

    Raises:
        UserError: the table cannot be read, lacks a column or has no row.
    """
    chosen = choose(path, column_names(path), "", need_images=False)
    if chosen.category is None:
        raise UserError(f"{path} has no column of categories; call it category_id")
    products = _products([path], [chosen], [read_columns(path, [chosen.id, chosen.category])])
    return Labels(products.product_id, products.category_id, products.faults)


def _of_paths(tables: Sequence[Named], chosen: Sequence[Chosen]) -> Catalogue:
    paths = [one.path for one in tables]
    read = [
        read_columns(path, list(dict.fromkeys(filter(None, c))))
        for path, c in zip(paths, chosen, strict=True)
    ]
    products = _products(paths, chosen, read)
    directories = {path.parent for path in paths}
    directory = paths[0].parent if len(directories) == 1 else Path()
    counts, found = [], []
    for path, c, table in zip(paths, chosen, read, strict=True):
        values, of_rows = images_of(table[c.images], of_csv=not is_parquet(path))
        counts.append(of_rows)
        found += encoded(values, path.parent if len(directories) > 1 else None)
    num_images, order = products.images(np.concatenate(counts))
    if any(_URL.match(name) for name in found[:1]):
        raise UserError(
            f"{paths[0]} holds addresses of images ({found[0].decode(errors='replace')}); download "
            "them first and name the files"
        )
    names, status = Names(), []
    within = os.fsencode(directory)
    for image in order.tolist():
        names.add(found[image])
        status.append(status_of(os.path.join(within, found[image])))  # noqa: PTH118
    statuses = np.array(status, np.int64).reshape(-1, 2)
    if len(statuses) and (statuses[:, 0] < 0).all():
        first = found[order[0]][:_MAX_SHOWN].decode(errors="replace")
        how = f"paths are relative to {directory.absolute()}"
        if os.path.exists(directory / first.replace("\\", "/")):  # noqa: PTH110, of any length
            how = "write them with / in place of \\"
        raise UserError(
            f"{paths[0]}: none of its {len(statuses):,} images is there, such as {first}; {how}"
        )
    listing = Listing(
        directory,
        products.product_id,
        products.category_id,
        num_images,
        *names.columns(),
        statuses,
        products.faults,
        products.bad_records,
    )
    return catalogue_of(listing, [one.shown for one in tables])


def _of_bytes(tables: Sequence[Named], chosen: Sequence[Chosen]) -> Catalogue:
    paths = [one.path for one in tables]
    shown = ", ".join(map(str, paths))

    def build(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        read = [
            read_columns(path, [n for n in (c.id, c.category) if n])
            for path, c in zip(paths, chosen, strict=True)
        ]
        products = _products(paths, chosen, read)
        logging.getLogger(__name__).info("%s: copying the images to the cache", shown)
        counts, lengths, digests = [], [], bytearray()
        total = sum(len(table) for table in read)
        with (
            (directory / IMAGES).open("wb") as file,
            Progress(total, "rows", label="copying") as bar,
        ):
            copy = Bounded(file, shown)
            for path, c in zip(paths, chosen, strict=True):
                batches = pq.ParquetFile(path).iter_batches(_ROWS_AT_ONCE, columns=[c.images])
                for batch in batches:
                    values, of_rows = images_of(batch.column(0), of_csv=False)
                    counts.append(of_rows)
                    for data in values.to_pylist():
                        image = data or b""
                        copy.write(image)
                        lengths.append(len(image))
                        digests += xxhash.xxh3_128_digest(image)
                    bar.update(len(batch))
        num_images, order = products.images(np.concatenate([np.zeros(0, np.int64), *counts]))
        length = np.array(lengths, np.int64)
        columns = {
            "product_id": products.product_id,
            "category_id": products.category_id,
            "num_images": num_images,
            "first_image": np.cumsum(num_images, dtype=np.int64) - num_images,
            "image_length_bytes": length[order].astype(np.int32),
            "image_hash": hashes_from(digests)[order],
            "image_offset_bytes": (np.cumsum(length) - length)[order],
            "table": products.table,
        }
        about = about_faults(products.faults, bad_records=products.bad_records)
        return columns, {**about, "bytes": copy.num_bytes}

    states = [(one.after, *status_of(os.fsencode(one.path))) for one in tables]
    places = [str(one.path.resolve()) for one in tables]
    name = xxhash.xxh3_64_hexdigest(repr(places).encode())
    state = xxhash.xxh3_128_hexdigest(repr(states).encode())
    stored = load_or_build(name, state, build, is_final=is_whole)
    return opened(stored, tuple(one.shown for one in tables))


def _products(
    paths: Sequence[Path], chosen: Sequence[Chosen], tables: Sequence[pa.Table]
) -> _Products:
    """Group the rows of tables by their ids.

    Raises:
        UserError: no row has an id.
    """
    ids = _column(paths, [c.id for c in chosen], tables)
    categories = _column(paths, [c.category for c in chosen], tables)
    table_of_row = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    valid = has_id(ids) & ~_unusable(ids)
    distinct, first, inverse = np.unique(ids[valid], return_index=True, return_inverse=True)
    if not len(distinct):
        raise UserError(f"{paths[0]}: no row has an id in its column {chosen[0].id}")
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    product_of_row = np.full(len(ids), -1)
    product_of_row[valid] = rank[inverse]
    product_id = distinct[order]
    category_id = (
        np.zeros(len(distinct), categories.dtype) if is_text(categories) else no_ids(len(distinct))
    )
    known = has_id(categories) & ~_unusable(categories)
    labelled = np.flatnonzero(valid & known)[::-1]
    category_id[product_of_row[labelled]] = categories[labelled]  # the first row comes last
    table = table_of_row[np.flatnonzero(valid)[first[order]]].astype(np.int32)
    other = product_of_row[labelled][categories[labelled] != category_id[product_of_row[labelled]]]
    starts = np.cumsum([0] + [len(one) for one in tables])
    faults = [
        (paths[number], Fault(None, None, f"{_NO_ID}: row {row + 1 - starts[number]}"))
        for row in np.flatnonzero(~valid).tolist()
        for number in [int(table_of_row[row])]
    ]
    bad_records = len(faults)
    wrong_rows = np.flatnonzero(valid & has_id(categories) & ~known)
    faults += [
        (paths[int(table[row])], Fault(None, product_id[row].item(), f"{OTHER_CATEGORY}: too long"))
        for row in np.unique(product_of_row[wrong_rows]).tolist()
    ]
    faults += [
        (paths[int(table[row])], Fault(None, product_id[row].item(), _SEVERAL))
        for row in np.unique(other).tolist()
    ]
    return _Products(product_id, category_id, product_of_row, table, faults, bad_records)


def _unusable(ids: Ids[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Which rows have a text that cannot be an id."""
    if not is_text(ids):
        return np.zeros(len(ids), bool)
    return np.array([bool(text) and fault_of(text) is not None for text in ids.tolist()], bool)


def _column(
    paths: Sequence[Path], names: Sequence[str | None], tables: Sequence[pa.Table]
) -> Ids[np.ndarray, " rows"]:
    parts = [
        no_ids(len(table)) if name is None else ids_of(path, name, table[name])
        for path, name, table in zip(paths, names, tables, strict=True)
    ]
    return joined(parts)
