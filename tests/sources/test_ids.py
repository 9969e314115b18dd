"""Tests of product_mil.sources.ids and of looking up ids of either kind."""

import numpy as np
import pytest

from product_mil.sources.ids import (
    MAX_ID_CHARACTERS,
    NO_CATEGORY,
    alike,
    as_text,
    fault_of,
    has_id,
    ids_from,
    ids_from_text,
    joined,
    merged,
    no_ids,
    numbers_of,
)
from product_mil.sources.lookup import are_among, rows_in_sorted, rows_of


def test_integers_stay_integers() -> None:
    ids = ids_from([3, None, -(2**63) + 1, 2**63 - 1])
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, NO_CATEGORY, -(2**63) + 1, 2**63 - 1]
    assert has_id(ids).tolist() == [True, False, True, True]
    assert numbers_of(ids).tolist() == [3, 2**63, 2**63 + 1, 2**63 - 1]


def test_one_text_makes_a_column_of_text() -> None:
    ids = ids_from([3, None, "SKU-é", "手机"])
    assert ids.tolist() == ["3", "", "SKU-é", "手机"]
    assert has_id(ids).tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["7", "-12", "0"], [7, -12, 0]),
        (["7", ""], [7, NO_CATEGORY]),
        (["9223372036854775807"], [2**63 - 1]),
        (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
        (["007", "8"], ["007", "8"]),  # a barcode keeps its zeros
        (["+7"], ["+7"]),
        (["-0"], ["-0"]),
        (["7 "], ["7 "]),
        (["\u0667"], ["\u0667"]),  # a digit, but not as Python writes it
    ],
)
def test_ids_of_a_file_without_types(texts: list[str], expected: list[int | str]) -> None:
    assert ids_from_text(texts).tolist() == expected


def test_as_text_is_no_wider_than_needed() -> None:
    text = as_text(ids_from([12, None, -345]))
    assert text.tolist() == ["12", "", "-345"]
    assert text.dtype.str == "<U4"
    assert as_text(np.zeros(0, np.int64)).dtype.str == "<U1"


def test_columns_of_both_kinds_are_compared_as_text() -> None:
    numbers, texts = ids_from([1, None, 30]), ids_from(["30", "x", "01"])
    assert [column.tolist() for column in alike(numbers, texts)] == [
        ["1", "", "30"],
        ["30", "x", "01"],
    ]
    assert alike(numbers, numbers)[0] is numbers
    assert joined([numbers, texts]).tolist() == ["1", "", "30", "30", "x", "01"]
    assert joined([numbers]) is numbers
    assert joined([texts, no_ids(1)]).tolist() == ["30", "x", "01", ""]


def test_merged_is_as_wide_as_what_counts() -> None:
    numbers = np.array([NO_CATEGORY, 5, 123456789])
    own, rows = np.array([False, True, False]), np.array([2])
    assert merged(numbers, own, rows, ids_from(["ab"])).tolist() == ["", "5", "ab"]
    assert merged(numbers, own, rows, ids_from(["ab"])).dtype.str == "<U2"
    assert merged(numbers, own, rows, ids_from([6])).tolist() == [0, 5, 6]
    empty = np.array(["", "a", ""])  # no id counts, so it may as well be a column of integers
    assert merged(empty, ~own, np.array([1]), ids_from([6])).tolist() == [
        NO_CATEGORY,
        6,
        NO_CATEGORY,
    ]


def test_numbers_of_text_tell_texts_apart() -> None:
    ids = ids_from([f"SKU-{i}" for i in range(1000)])
    assert len(np.unique(numbers_of(ids))) == 1000
    wider = np.concatenate([ids, ids_from(["x" * 50])])  # the same ids in a wider column
    assert numbers_of(wider)[:1000].tolist() == numbers_of(ids).tolist()


@pytest.mark.parametrize("same_kind", [True, False])
def test_lookup(same_kind: bool) -> None:
    ids, wanted = ids_from([10, 9, 9, 100]), ids_from([9, 100, 7, None])
    if not same_kind:
        wanted = as_text(wanted)
    assert rows_of(ids, wanted).tolist() == [1, 3, -1, -1]
    assert rows_in_sorted(np.sort(ids), wanted).tolist() == [0, 3, -1, -1]
    assert are_among(wanted, ids).tolist() == [True, True, False, False]
    assert rows_of(as_text(ids), ids_from([9, 11])).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", None),
        ("手" * MAX_ID_CHARACTERS, None),
        ("", "it is empty"),
        ("a" * 201, "201 characters, more than 200"),
        ("a\0", "a zero"),
        ("a\udcff", "half of a pair"),
    ],
)
def test_texts_that_cannot_be_ids(text: str, reason: str | None) -> None:
    found = fault_of(text)
    assert found is None if reason is None else reason in str(found)
