"""The categories of products in folders, by a file of labels."""

import filecmp
from pathlib import Path
from typing import NamedTuple

import numpy as np

from product_mil.errors import UserError
from product_mil.sources.catalogue import Fault
from product_mil.sources.ids import NO_CATEGORY, Id, Ids, is_text
from product_mil.sources.lookup import rows_of
from product_mil.sources.names import Named

LABELS = "labels.csv"  # in the folder itself, it is read without being named
_MAX_SHOWN = 3  # ids in a note


class Labelled(NamedTuple):
    """What a file of labels says of the products of a folder."""

    category_id: Ids[np.ndarray, " N"]
    faults: list[tuple[Path, Fault]]
    notes: list[str]


def labels_file(named: Named) -> Path | None:
    """The file of labels that belongs to a folder, if there is one.

    What follows the `#` is looked for in the current directory, and then in the folder.

    Raises:
        UserError: it is in both, and the files differ.
    """
    inside = named.path / (named.after or LABELS)
    if not named.after:
        return inside if inside.is_file() else None
    path = Path(named.after)
    if not path.is_file():
        return inside
    if inside.is_file() and not _are_equal(path, inside):
        raise UserError(
            f"{named.shown}: {path.absolute()} and {inside.absolute()} differ; name it by its path"
        )
    return path


def read_categories_of(path: Path, product_id: Ids[np.ndarray, " N"]) -> Labelled:
    """The category of each product by the file of labels.

    Raises:
        UserError: the file cannot be read, or none of its ids is a folder's name.
    """
    from product_mil.sources.tables import read_labels

    labels = read_labels(path)
    row = rows_of(labels.product_id, product_id)
    notes = [f"labels of {path}"]
    nowhere = labels.product_id[rows_of(product_id, labels.product_id) < 0].tolist()
    if len(nowhere) == len(labels.product_id):
        raise UserError(
            f"{path}: none of its products, such as {_shown(nowhere[:1], product_id)}, is a folder "
            "of the data; its ids are the names of the folders"
        )
    if nowhere:
        shown = _shown(nowhere[:_MAX_SHOWN], product_id) + ", ..." * (len(nowhere) > _MAX_SHOWN)
        notes.append(f"{len(nowhere):,} of its products have no folder: {shown}")
    category_id = labels.category_id[row]
    category_id[row < 0] = "" if is_text(category_id) else NO_CATEGORY
    # The ids of folders may be integers where those of the file are text, or the other way round.
    has_label = row >= 0
    ids = labels.product_id[row[has_label]].tolist()
    folder_of = dict(zip(ids, product_id[has_label].tolist(), strict=True))
    faults = [
        (where, fault._replace(product_id=folder_of[fault.product_id]))
        for where, fault in labels.faults
        if fault.product_id in folder_of
    ]
    return Labelled(category_id, faults, notes)


def _are_equal(path: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror}") from None


def _shown(ids: list[Id], product_id: Ids[np.ndarray, " N"]) -> str:
    """Ids that have no folder, each with the folder that differs from it in leading zeros alone."""
    folders = {str(name).lstrip("0"): name for name in product_id.tolist()}
    folders.pop("", None)
    meant = [folders.get(str(one).lstrip("0")) for one in ids]
    return ", ".join(
        str(one) if folder is None else f"{one} (did you mean {folder}?)"
        for one, folder in zip(ids, meant, strict=True)
    )
