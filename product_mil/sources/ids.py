"""Ids of products and categories: integers of 64 bits, or text.

A column of ids is a NumPy array of int64, or of text (`<U`). An ObjectId is the text of its 24
hexadecimal digits, a UUID that of its 36 characters. Two ids are the same if they are written
alike: the integer 7 is the text "7". So files with either kind of ids work together.

Where a column has no id, integers have `NO_CATEGORY`, and text is empty.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import xxhash
from jaxtyping import AbstractDtype, Bool, Int64, UInt64

if TYPE_CHECKING:
    from jaxtyping import Shaped as Ids
else:

    class Ids(AbstractDtype):
        """The dtypes of a column of ids, for annotations such as `Ids[np.ndarray, " N"]`."""

        dtypes = ("int64", "str_")


Id: TypeAlias = int | str

NO_CATEGORY = int(np.iinfo(np.int64).min)
MAX_ID_CHARACTERS = 200  # of text; a column is as wide as its longest id

_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")  # as Python writes an integer
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # NumPy's text ends in no zero; UTF-8 has no surrogates


def ids_from(values: Iterable[Id | None]) -> Ids[np.ndarray, " N"]:
    """The column of these ids: of integers if all are integers, else of text. None is no id."""
    found = list(values)
    if any(isinstance(value, str) for value in found):
        return np.array(["" if value is None else str(value) for value in found], np.str_)
    return np.array([NO_CATEGORY if value is None else value for value in found], np.int64)


def ids_from_text(texts: Sequence[str]) -> Ids[np.ndarray, " N"]:
    """The column of ids read from a file that knows no types. An empty text is no id.

    It is of integers if every id is written as Python writes an integer of 64 bits; with a leading
    zero, as barcodes have it, all are text.
    """
    integers = [integer_of(text) for text in texts]
    if all(number is not None or not text for number, text in zip(integers, texts, strict=True)):
        return ids_from(integers)
    return np.array(texts, np.str_)


def integer_of(text: str) -> int | None:
    """The integer that a text writes as Python writes it; None for anything else."""
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is None or NO_CATEGORY < number < 2**63 else None


def is_text(ids: np.ndarray) -> bool:
    """Whether a column is of text rather than of integers."""
    return ids.dtype.kind == "U"


def no_ids(count: int) -> Int64[np.ndarray, " N"]:
    """A column of `count` rows without ids."""
    return np.full(count, NO_CATEGORY)


def has_id(ids: Ids[np.ndarray, "*N"]) -> Bool[np.ndarray, "*N"]:
    """Which rows have an id."""
    return np.asarray(ids != ("" if is_text(ids) else NO_CATEGORY))


def as_text(ids: Ids[np.ndarray, "*N"]) -> Ids[np.ndarray, "*N"]:
    """The same ids as a column of text."""
    if is_text(ids):
        return ids
    text = ids.astype(np.str_)
    text[~has_id(ids)] = ""
    return text.astype(f"<U{max(1, np.char.str_len(text).max(initial=0))}")  # no wider than needed


def alike(*columns: Ids[np.ndarray, "..."]) -> tuple[Ids[np.ndarray, "..."], ...]:
    """The columns, all of integers or all of text, so that their ids can be compared."""
    return tuple(map(as_text, columns)) if any(map(is_text, columns)) else columns


def joined(columns: Sequence[Ids[np.ndarray, " _"]]) -> Ids[np.ndarray, " N"]:
    """One column of these columns one after the other. A single one is not copied."""
    return columns[0] if len(columns) == 1 else np.concatenate(alike(*columns))


def merged(
    ids: Ids[np.ndarray, " N"],
    own: Bool[np.ndarray, " N"],
    rows: Int64[np.ndarray, " r"],
    others: Ids[np.ndarray, " r"],
) -> Ids[np.ndarray, " N"]:
    """A column with the values of `ids` where `own` is true, and with `others` in these rows.

    Rows that are neither mean nothing.
    """
    is_whole = bool(own.all())
    if is_whole and not is_text(ids):
        return ids
    mine = ids if is_whole else ids[own]
    if not has_id(mine).any():
        mine = no_ids(len(mine))
    if is_whole:
        return mine
    mine, others = alike(mine, others)
    column = np.zeros(len(ids), np.promote_types(mine.dtype, others.dtype))
    column[own], column[rows] = mine, others
    return column


def numbers_of(ids: Ids[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """64 bits of each id: the integer itself, or a hash of the text."""
    if not is_text(ids):
        return np.asarray(ids).view(np.uint64)
    hashes = [xxhash.xxh3_64_intdigest(text.encode()) for text in ids.tolist()]
    return np.array(hashes, np.uint64)


def fault_of(text: str) -> str | None:
    """Why a text cannot be an id; None if it can."""
    if not text:
        return "it is empty"
    if len(text) > MAX_ID_CHARACTERS:
        return f"it has {len(text)} characters, more than {MAX_ID_CHARACTERS}"
    if _UNUSABLE.search(text):
        return "it has a character that text cannot have (a zero or half of a pair)"
    return None
