"""The classes and their tree of 1 to 6 levels, from the category file, sorted by category id."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from product_mil.errors import UserError
from product_mil.files.foreign import CATEGORY_FILE, refuse_foreign
from product_mil.sources.ids import Id, Ids, fault_of, has_id, ids_from, ids_from_text
from product_mil.sources.lookup import rows_in_sorted

MAX_LEVELS = 6
_COLUMNS = "category_id,category_level1,category_level2 and so on"
_MAX_LISTED_ERRORS = 10
_MAX_SHOWN = 60  # characters of the first line
_ESCAPED = re.compile("[\0\udc80-\udcff]")  # bytes that are not UTF-8, or that come from UTF-16


@dataclass(frozen=True, eq=False)
class Categories:
    """k classes in the order of their ids, with a name and a group for each at every level.

    Row 0 of `groups` belongs to level 1, the top of the tree. A group is a path of names from the
    top down, because the same name may recur under several others. Groups are numbered in the order
    of their first class. At the last level each class is a group of its own, whatever its name.
    """

    ids: Ids[np.ndarray, " k"]
    names: tuple[tuple[str, ...], ...]
    groups: Int32[np.ndarray, "levels k"]

    @property
    def depth(self) -> int:
        """The number of levels."""
        return len(self.groups)

    def levels(self) -> tuple[int, ...]:
        """The number of groups at each level; at the last, of classes."""
        return tuple((self.groups.max(1) + 1).tolist())

    def class_of(self, category_ids: Ids[np.ndarray, " N"]) -> Int32[np.ndarray, " N"]:
        """Class index of each id; -1 where it is unknown or there is no id."""
        return rows_in_sorted(self.ids, category_ids).astype(np.int32)

    def to_json(self) -> str:
        """The ids and names as JSON, for checkpoints and prediction files."""
        return json.dumps({"ids": self.ids.tolist(), "names": self.names}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Categories":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return _categories(ids_from(fields["ids"]), fields["names"])


def read_categories(path: Path, skipped: list[str] | None = None) -> Categories:
    """Read a CSV in UTF-8 with the columns category_id and category_level1 to at most _level6.

    The tree has as many levels as the file has columns of them. A row whose last levels are empty
    repeats the name above them. A file of category_id alone is a tree of one level, in which each
    id is its name. Spaces around a name do not belong to it. If a list `skipped` is given, wrong
    rows are left out, and what is wrong with each is added to that list.

    Raises:
        UserError: rows are wrong; the message lists them all by line. Or there is no row.
    """
    path = Path(path)
    refuse_foreign(path, CATEGORY_FILE)
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    rows: dict[str, list[str]] = {}
    errors: list[str] = []
    lines: dict[str, int] = {}
    for line, last_line, row in _rows(path, text):
        category_id = row[0] if row else ""
        if last_line > line:
            errors.append(
                f"line {line}: a quote that begins here is closed on line {last_line}; close it on "
                "its line, or double it where it belongs to a name"
            )
        elif not row:
            errors.append(f"line {line}: not as many fields as the header names; quote commas")
        elif _ESCAPED.search("".join(row)):
            errors.append(f"line {line}: not UTF-8; save the file as UTF-8")
        elif reason := fault_of(category_id):
            errors.append(f"line {line}: the category_id is not usable: {reason}")
        elif level := _empty_level(row[1:]):
            errors.append(
                f"line {line}: category_level{level} is empty; only the levels below the last "
                "name may be, where the tree ends higher up"
            )
        elif category_id in rows:
            errors.append(
                f"line {line}: category_id {category_id} was on line {lines[category_id]}"
            )
        else:
            rows[category_id], lines[category_id] = row[1:], line
    if skipped is not None:
        skipped += errors
    elif errors:
        more = len(errors) - _MAX_LISTED_ERRORS
        tail = f"; and {more} more" if more > 0 else ""
        raise UserError(
            f"{path}: {'; '.join(errors[:_MAX_LISTED_ERRORS])}{tail}; correct these rows, or leave "
            "them out with config.data.bad_categories=skip"
        )
    if not rows:
        left = f"all {len(errors)} rows are left out, such as {errors[0]}; " if errors else ""
        raise UserError(f"{path}: no categories; {left}expected lines of {_COLUMNS}")
    return _categories(ids_from_text(list(rows)), list(rows.values()))


def categories_from_ids(ids: Ids[np.ndarray, " N"]) -> Categories:
    """The distinct ids as the classes of a tree of one level, in which each id is its name.

    Rows without an id are left out.

    Raises:
        UserError: there is no id.
    """
    distinct = np.unique(ids[has_id(ids)])
    if not len(distinct):
        raise UserError("no product has a category_id; training needs labelled products")
    return _categories(distinct, [()] * len(distinct))


def _rows(path: Path, text: str) -> Iterator[tuple[int, int, list[str]]]:
    """The first line, last line, and id and names from level 1 down, of each nonempty row.

    A row whose number of fields differs from the header's has an empty list. Fields are separated
    by commas, semicolons or tabs, as they are in the header.
    """
    heading = text.partition("\n")[0].rstrip()
    delimiter = max(",;\t", key=heading.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=True
    )
    line = 1  # the line on which the next row begins
    try:
        header = [name.strip() for name in next(reader, [])]
        wanted = _wanted(header)
        missing = [name for name in wanted if name not in header]
        if missing and _ESCAPED.search(text):
            perhaps = " (it looks like UTF-16)" * ("\0" in text)
            raise UserError(f"{path}:1: not UTF-8; save the file as UTF-8{perhaps}")
        if missing:
            there = f"it is {heading[:_MAX_SHOWN]!r}" if heading else "it is empty"
            raise UserError(
                f"{path}:1: no column {', '.join(missing)}; the first line names the columns "
                f"{_COLUMNS}, between commas, semicolons or tabs; {there}"
            )
        repeated = [name for name in wanted if header.count(name) > 1]
        if repeated:
            raise UserError(f"{path}:1: several columns {repeated[0]}; leave out all but one")
        if len(wanted) > 1 + MAX_LEVELS:
            raise UserError(
                f"{path}:1: a tree has at most {MAX_LEVELS} levels; leave out the columns from "
                f"{wanted[1 + MAX_LEVELS]} on"
            )
        columns = [header.index(name) for name in wanted]
        line = reader.line_num + 1
        for row in reader:
            if row:
                right = len(row) == len(header)
                fields = [row[i].strip() for i in columns] if right else []
                yield line, reader.line_num, fields
            line = reader.line_num + 1
    except csv.Error as error:
        reason = f"{error}, at line {reader.line_num}"
        raise UserError(
            f"{path}:{line}: a quote that begins here is not closed as it should be ({reason}); "
            "close it on its line, or double it where it belongs to a name"
        ) from None


def _wanted(header: Sequence[str]) -> list[str]:
    """The columns that a file with this header must have, in order: the id, and all levels."""
    if list(header) == ["category_id"]:
        return ["category_id"]
    levels = (re.fullmatch("category_level([1-9][0-9]?)", name) for name in header)
    deepest = max((int(found[1]) for found in levels if found), default=1)
    return ["category_id", *(f"category_level{level}" for level in range(1, deepest + 1))]


def _empty_level(names: Sequence[str]) -> int:
    """The first level that has no name though it must have one; 0 if there is none."""
    last = max((level for level, name in enumerate(names, 1) if name), default=1)
    return next((level for level, name in enumerate(names[:last], 1) if not name), 0)


def _categories(ids: Ids[np.ndarray, " k"], names_of: Sequence[Sequence[str]]) -> Categories:
    """Classes in the order of their ids. Names left empty at the end repeat the last one."""
    order = np.argsort(ids, kind="stable")
    names = tuple(_filled(names_of[int(row)]) or (str(ids[row]),) for row in order)
    groups = [_numbered([path[:level] for path in names]) for level in range(1, len(names[0]))]
    return Categories(
        ids=ids[order],
        names=names,
        groups=np.array([*groups, range(len(names))], np.int32),
    )


def _filled(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with the one above where one is empty."""
    return tuple(accumulate(names, lambda above, name: name or above))


def _numbered(paths: list[tuple[str, ...]]) -> list[int]:
    """The number of each path, counted in the order in which paths first appear."""
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return [numbers[path] for path in paths]


def path_of(categories: Categories, category_id: Id) -> list[str]:
    """The names of a category from level 1 down, without repetitions; its id if it is unknown."""
    place = int(categories.class_of(ids_from([category_id]))[0])
    if place < 0:
        return [str(category_id)]
    return list(dict.fromkeys(categories.names[place]))
