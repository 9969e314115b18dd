"""Products in folders: category/product/image.jpg, or product/image.jpg with a file of labels.

The names of the folders are the ids. Images of a product are in the order of their names, where
numbers count as numbers: 2.jpg comes before 10.jpg.
"""

import logging
import os
import re
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from product_mil.errors import UserError
from product_mil.progress import LOG_EVERY_S
from product_mil.sources.catalogue import Fault
from product_mil.sources.folder_labels import LABELS, labels_file, read_categories_of
from product_mil.sources.ids import Ids, fault_of, has_id, ids_from_text, no_ids
from product_mil.sources.image_files import ImageFiles, Listing, Names, catalogue_of, status_of
from product_mil.sources.names import Named

# Of the formats that `data/decode.py` reads.
IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
)
EMPTY = "the folder has no image"  # a kind of faults
_NO_ID = "no usable folder name"  # the same
_LEFT_BEHIND = ("__MACOSX", "@eaDir")  # folders of copies and previews that programs leave
_LAYOUTS = "FOLDER/CATEGORY/PRODUCT/IMAGE.jpg or FOLDER/PRODUCT/IMAGE.jpg"
_NUMBER = re.compile(r"(\d+)")


@dataclass
class _Found:
    """What is in a folder, product by product."""

    folders: list[tuple[str, ...]] = field(default_factory=list)  # names below the root
    num_images: list[int] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    status: "array[int]" = field(default_factory=lambda: array("q"))  # of each image, one by one
    examples: dict[int, Path] = field(default_factory=dict)  # an image at each depth
    labels: Path | None = None  # the file of labels, which is not ignored
    ignored: list[Path] = field(default_factory=list)  # the first one
    num_ignored: int = 0
    lost: list[Path] = field(default_factory=list)  # links to images that are not there


def open_folder(named: Named) -> ImageFiles:
    """The products in a folder, whose images are read and hashed once.

    Without a layer of categories, the file of labels gives them: `named.after`, or `LABELS` in the
    folder. Without either, products have no category.

    Raises:
        UserError: there is no image, or images lie at different depths; or labels do not fit.
    """
    root, labels = named.path, labels_file(named)
    found = _Found(labels=labels)
    log, logged_s = logging.getLogger(__name__), time.monotonic()
    for folder, entries, is_leaf in _walk(str(root), (), (_identity(root.stat()),), found):
        _add(found, root, folder, entries, is_leaf=is_leaf)
        if time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            log.info("%s: %s images found so far", root, f"{len(found.status) // 2:,}")
    depth = _depth(root, found)
    rows = [row for row, folder in enumerate(found.folders) if len(folder) == depth]
    folders = [found.folders[row] for row in rows]
    keys = [folder[-1] for folder in folders]
    notes = []
    if len(set(keys)) < len(keys):
        keys = ["/".join(folder) for folder in folders]
        notes.append("product folders of one name lie in several categories: ids are both names")
    usable = np.array(
        [not (fault_of(key) or fault_of(of[0])) for key, of in zip(keys, folders, strict=True)],
        bool,
    )
    product_id = ids_from_text([key for key, use in zip(keys, usable, strict=True) if use])
    listing = _listing(named, found, np.array(rows, np.int64), usable, product_id)
    if depth == 2:
        if named.after:
            raise UserError(
                f"{named.shown}: its folders name the categories already; leave out #{named.after}"
            )
        if labels is not None:
            notes.append(f"{labels} is not used, because the folders name the categories")
        categories = [folder[0] for folder, use in zip(folders, usable, strict=True) if use]
        listing = listing._replace(category_id=ids_from_text(categories))
    elif labels is not None:
        if not labels.is_file():
            raise UserError(f"{labels}: no such file; name a CSV with the columns _id,category_id")
        category_id, faults, of_labels = read_categories_of(labels, product_id)
        listing = listing._replace(category_id=category_id, faults=[*listing.faults, *faults])
        notes += of_labels
    else:
        notes.append(f"no {LABELS}, so no product has a category")
    count = len(np.unique(listing.category_id[has_id(listing.category_id)]))
    of = f" of {count:,} categories" if count else ""
    notes[:0] = [f"{len(product_id):,} products{of}, {len(listing.status):,} images"]
    if found.num_ignored:
        notes.append(f"{found.num_ignored:,} other files ignored, such as {found.ignored[0]}")
    log.info("%s: %s", named.shown, "; ".join(notes))
    return catalogue_of(listing, [named.shown])


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names with numbers in them as people do."""
    # Text and numbers take turns, so like is compared with like.
    parts = _NUMBER.split(name)
    return [int(p) if n % 2 else p.casefold() for n, p in enumerate(parts)], name


def _walk(
    directory: str,
    folder: tuple[str, ...],
    above: tuple[tuple[int, int], ...],
    found: _Found,
) -> Iterator[tuple[tuple[str, ...], list[os.DirEntry[str]], bool]]:
    """Each folder down to the third layer, with its images, and whether it has no folder inside.

    A link to a folder is followed, unless it leads back to one that it lies in.
    """
    images, inside = [], {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _LEFT_BEHIND:
                    _ignore(found, entry)
                elif _is(entry.is_dir):
                    inside[entry.name] = _identity(entry.stat())
                elif _ending(entry.name) in IMAGE_ENDINGS and (
                    _is(entry.is_file) or entry.is_symlink()  # to nowhere: a lost image
                ):
                    images.append(entry)
                else:
                    _ignore(found, entry)
    except OSError as error:
        raise UserError(
            f"cannot read the folder {error.filename or directory}: {error.strerror}"
        ) from None
    images.sort(key=lambda entry: natural(entry.name))
    yield folder, images, not inside
    if len(folder) == 3:
        return
    for name in sorted(inside, key=natural):
        if inside[name] not in above:
            below = (*above, inside[name])
            yield from _walk(f"{directory}/{name}", (*folder, name), below, found)


def _is(test: Callable[[], bool]) -> bool:
    """The answer of a test; links that lead to themselves are nothing."""
    try:
        return test()
    except OSError:
        return False


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122, there may be millions


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _ignore(found: _Found, entry: os.DirEntry[str]) -> None:
    labels = found.labels
    if labels and entry.name == labels.name and _is(lambda: labels.samefile(entry.path)):
        return
    found.num_ignored += 1
    if not found.ignored:
        found.ignored.append(Path(entry.path))


def _add(
    found: _Found,
    root: Path,
    folder: tuple[str, ...],
    entries: list[os.DirEntry[str]],
    *,
    is_leaf: bool,
) -> None:
    if not entries and not is_leaf:
        return  # of a category
    found.folders.append(folder)
    found.num_images.append(len(entries))
    within = "".join(f"{name}/" for name in folder)
    for entry in entries:
        found.names.add(os.fsencode(within + entry.name))
        found.status.extend(status_of(os.fsencode(entry.path)))
        if found.status[-1] < 0:
            found.lost.append(Path(entry.path))
        else:
            found.examples.setdefault(len(folder), root.joinpath(*folder, entry.name))


def _depth(root: Path, found: _Found) -> int:
    """The number of folders between the root and its images."""
    depths = found.examples
    if not depths:
        other = ""
        if found.lost:
            count, first = f"{len(found.lost):,}", found.lost[0]
            other = f", but {count} links to files that are not there, such as {first}"
        elif found.num_ignored:
            other = f", but {found.num_ignored:,} other files, such as {found.ignored[0]}"
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise UserError(f"{root} has no image{other}; name a folder of {_LAYOUTS} ({endings})")
    if len(depths) > 1:
        places = " and ".join(str(depths[depth]) for depth in sorted(depths)[:2])
        raise UserError(
            f"{root} has images at different depths, such as {places}; all must lie as {_LAYOUTS}"
        )
    (depth,) = depths
    if depth not in (1, 2):
        where = "in the folder itself" if not depth else "too deep"
        raise UserError(f"{depths[depth]} lies {where}; images must lie as {_LAYOUTS}")
    return depth


def _listing(
    named: Named,
    found: _Found,
    rows: np.ndarray,
    usable: np.ndarray,
    product_id: Ids[np.ndarray, " N"],
) -> Listing:
    """The products of these rows whose names are usable as ids; the others are faults."""
    num_images = np.array(found.num_images, np.int32)
    names, name_at = found.names.columns()
    status = np.frombuffer(found.status, np.int64).reshape(-1, 2)
    keep = np.zeros(len(num_images), bool)
    keep[rows[usable]] = True
    if not keep.all():
        kept = np.repeat(keep, num_images)
        names = names[np.repeat(kept, np.diff(name_at))]
        name_at = np.append(0, np.cumsum(np.diff(name_at)[kept]))
        num_images, status = num_images[keep], status[kept]

    def place(row: int) -> Path:
        return named.path.joinpath(*found.folders[row])

    faults = [
        (place(row), Fault(None, None, f"{_NO_ID}: it is too long, or not UTF-8"))
        for row in rows[~usable].tolist()
    ]
    bad = len(faults)
    faults += [
        (place(int(rows[usable][row])), Fault(None, product_id[row].item(), EMPTY))
        for row in np.flatnonzero(num_images == 0).tolist()
    ]
    return Listing(
        named.path,
        product_id,
        no_ids(len(product_id)),
        num_images,
        names,
        name_at,
        status,
        faults,
        bad,
    )
