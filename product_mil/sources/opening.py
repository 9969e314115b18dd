"""Open what a user names as the data, whatever source of products it is."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from product_mil.errors import UserError
from product_mil.files.foreign import SOURCE, kind_of_file, refuse_foreign
from product_mil.sources.bson.index import open_catalogue as open_bson
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.joined import join
from product_mil.sources.names import Named, address_of, named

Spec = str | Path | Sequence[str | Path]


def open_catalogue(spec: Spec) -> Catalogue:
    """Open the products that `spec` names.

    It names dumps of MongoDB (also compressed, in an archive or through a pipe), folders of images,
    CSV or Parquet tables: a path, a glob (its matches are sorted), several of either joined by
    commas, or a sequence. Or it is the address of a MongoDB collection.

    Raises:
        UserError: nothing is there, or it is no source of products.
    """
    if address := address_of(spec):
        from product_mil.sources.mongo import copy_of_collection
        from product_mil.sources.mongo_address import parse

        copy = copy_of_collection(address)
        return open_bson(copy, shown=[parse(address).shown])
    sources = named(spec)
    _refuse_others(sources)
    parts: list[Catalogue] = []
    for (kind, _), group in itertools.groupby(sources, _kind_and_columns):
        some = list(group)
        if kind == "folder":
            from product_mil.sources.folders import open_folder

            parts += [open_folder(one) for one in some]
        elif kind == "table":
            from product_mil.sources.tables import open_tables

            parts.append(open_tables(some))
        else:
            paths = [_file_of(one) for one in some]
            names = [one.shown for one in some]
            parts.append(open_bson(paths, shown=names))
    return join(parts)


def check_sources(spec: Spec) -> None:
    """Check that everything named is there, and begins like a source of products.

    Raises:
        UserError: something is missing, or of another kind.
    """
    if address := address_of(spec):
        from product_mil.sources.mongo_address import parse

        parse(address)
    else:
        _refuse_others(named(spec))


def source_files(spec: Spec) -> list[Path]:
    """The files and folders that are named, which no output may replace.

    Raises:
        UserError: one is missing.
    """
    if address_of(spec):
        check_sources(spec)
        return []
    from product_mil.sources.folder_labels import labels_file

    found = named(spec)
    labels = [labels_file(one) for one in found if one.path.is_dir()]
    return [*(one.path for one in found), *filter(None, labels)]


def is_read_once(spec: Spec) -> bool:
    """Whether a pipe is among what is named, so that the data cannot be read again.

    Raises:
        UserError: something that is named is missing.
    """
    return address_of(spec) is None and any(one.path.is_fifo() for one in named(spec))


def _refuse_others(sources: Sequence[Named]) -> None:
    for one in sources:
        if not one.path.is_dir() and not one.path.is_fifo():
            refuse_foreign(one.path, SOURCE)


def _kind_and_columns(one: Named) -> tuple[str, str]:
    """How it is opened; tables go together if the same columns are asked for."""
    if one.path.is_dir():
        return "folder", ""
    if not one.path.is_fifo():
        kind = kind_of_file(one.path)
        if kind is not None and kind.group in ("table", "parquet"):
            return "table", kind.group + one.after
    return "dump", ""


def _file_of(one: Named) -> Path:
    """The file of BSON that holds the records."""
    kind = None if one.path.is_fifo() else kind_of_file(one.path)
    if one.path.is_fifo() or (kind is not None and kind.group in ("gzip", "archive")):
        from product_mil.sources.packed_dumps import unpacked

        return unpacked(one)
    if one.after:
        raise UserError(f"{one.shown}: {one.path} holds one collection; leave out the #")
    return one.path
