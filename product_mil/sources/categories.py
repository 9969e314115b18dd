"""The classes and their tree of 3 levels, from the category file, sorted by category id."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from product_mil.errors import UserError
from product_mil.files.foreign import CATEGORY_FILE, refuse_foreign
from product_mil.sources.ids import Id, Ids, fault_of, has_id, ids_from, ids_from_text
from product_mil.sources.lookup import rows_in_sorted

_HEADER = ("category_id", "category_level1", "category_level2", "category_level3")
_MAX_LISTED_ERRORS = 10
_MAX_SHOWN = 60  # characters of the first line
_ESCAPED = re.compile("[\0\udc80-\udcff]")  # bytes that are not UTF-8, or that come from UTF-16


@dataclass(frozen=True, eq=False)
class Categories:
    """k classes in the order of their ids, and the group of each at the two upper levels.

    A group at level 2 is a pair of names (level 1, level 2), because names of level 2 recur under
    several of level 1. Groups are numbered in the order of their first class.
    """

    ids: Ids[np.ndarray, " k"]
    names: tuple[tuple[str, str, str], ...]
    level1: Int32[np.ndarray, " k"]
    level2: Int32[np.ndarray, " k"]

    def levels(self) -> tuple[int, int, int]:
        """Number of groups at levels 1 and 2, and of classes."""
        return int(self.level1.max()) + 1, int(self.level2.max()) + 1, len(self.ids)

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
    """Read a CSV with the columns category_id, category_level1, _level2 and _level3, in UTF-8.

    Spaces around a name do not belong to it. If a list `skipped` is given, wrong rows are left out,
    and what is wrong with each is added to that list.

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
        elif len(row) != 4:
            errors.append(f"line {line}: not as many fields as the header names; quote commas")
        elif _ESCAPED.search("".join(row)):
            errors.append(f"line {line}: not UTF-8; save the file as UTF-8")
        elif reason := fault_of(category_id):
            errors.append(f"line {line}: the category_id is not usable: {reason}")
        elif "" in row[1:]:
            level = row.index("", 1)
            errors.append(
                f"line {line}: category_level{level} is empty; where the tree ends higher up, "
                "repeat the name above"
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
        raise UserError(f"{path}: no categories; {left}expected lines of {','.join(_HEADER)}")
    return _categories(ids_from_text(list(rows)), list(rows.values()))


def categories_from_ids(ids: Ids[np.ndarray, " N"]) -> Categories:
    """The distinct ids as the classes of a flat tree, in which each id is a group named by it.

    Rows without an id are left out.

    Raises:
        UserError: there is no id.
    """
    distinct = np.unique(ids[has_id(ids)])
    if not len(distinct):
        raise UserError("no product has a category_id; training needs labelled products")
    return _categories(distinct, [(str(category_id),) * 3 for category_id in distinct])


def _rows(path: Path, text: str) -> Iterator[tuple[int, int, list[str]]]:
    """The first line, last line and four fields, in the order of `_HEADER`, of each nonempty row.

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
        missing = [name for name in _HEADER if name not in header]
        if missing and _ESCAPED.search(text):
            perhaps = " (it looks like UTF-16)" * ("\0" in text)
            raise UserError(f"{path}:1: not UTF-8; save the file as UTF-8{perhaps}")
        if missing:
            there = f"it is {heading[:_MAX_SHOWN]!r}" if heading else "it is empty"
            raise UserError(
                f"{path}:1: no column {', '.join(missing)}; the first line names the columns "
                f"{','.join(_HEADER)}, between commas, semicolons or tabs; {there}"
            )
        columns = [header.index(name) for name in _HEADER]
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


def _categories(ids: Ids[np.ndarray, " k"], names_of: Sequence[Sequence[str]]) -> Categories:
    order = np.argsort(ids, kind="stable")
    names = tuple((row[0], row[1], row[2]) for row in (names_of[at] for at in order.tolist()))
    group1 = {name: i for i, name in enumerate(dict.fromkeys(name[:1] for name in names))}
    group2 = {name: i for i, name in enumerate(dict.fromkeys(name[:2] for name in names))}
    return Categories(
        ids=ids[order],
        names=names,
        level1=np.array([group1[name[:1]] for name in names], np.int32),
        level2=np.array([group2[name[:2]] for name in names], np.int32),
    )


def path_of(categories: Categories, category_id: Id) -> list[str]:
    """The names of a category from level 1 down, without repetitions; its id if it is unknown."""
    place = int(categories.class_of(ids_from([category_id]))[0])
    if place < 0:
        return [str(category_id)]
    return list(dict.fromkeys(categories.names[place]))
