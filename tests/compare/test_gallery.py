"""Which products the gallery shows, and what it knows of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from product_mil.compare.answers import Answers, Questions
from product_mil.compare.page.gallery import (
    BROKE,
    DETAIL_COLUMNS,
    FIXED,
    Detail,
    Selection,
    cards,
    details_in,
    details_of,
    select,
)
from product_mil.inference.predictions import PredictionBlock, written_whole
from product_mil.inference.top_classes import ParquetWriter, read_predictions
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.categories import Categories
from tests.compare.test_page import NAMES


def test_the_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thumbnails that recur are kept once; when they fill the room, no more products are shown."""
    rng = np.random.default_rng(0)
    n = 40
    records = []
    for row in range(n):
        pixels = rng.integers(0, 256, (112, 112, 3), np.uint8)
        pixels[:] = 9 if row % 2 else pixels
        pictures = [{"picture": simplejpeg.encode_jpeg(pixels)}] * 2
        records.append(bson.encode({"_id": row, "imgs": pictures}))
    (tmp_path / "d.bson").write_bytes(b"".join(records))
    categories = Categories.from_json(json.dumps({"ids": [1, 2, 3], "names": NAMES}))
    asked = Questions(np.arange(n), np.full(n, 1), np.full(n, 2, np.int32))
    a, b = Answers(np.full(n, 1)), Answers(np.full(n, 2))
    chosen = select(asked, a, b, categories)

    def made() -> dict[str, Any]:
        catalogue = open_catalogue(tmp_path / "d.bson")
        both = {"a": a, "b": b}
        nothing = {"a": None, "b": None}
        return cards(asked, chosen, nothing, both, categories, catalogue, np.arange(n))

    everything = made()
    assert len(everything["cards"]) == n
    assert len(everything["pictures"]) == n // 2 + 1
    monkeypatch.setattr("product_mil.compare.page.gallery.MAX_THUMBNAILS_BYTES", 50_000)
    some = made()
    assert 1 < len(some["cards"]) < n
    largest = max(map(len, everything["pictures"]))
    assert sum(map(len, some["pictures"])) <= 50_000 * 4 / 3 + 2 * largest
    assert [int(card["id"]) for card in some["cards"]] == sorted(
        int(card["id"]) for card in some["cards"]
    )


def test_strata() -> None:
    """Every stratum is there, and the large ones in proportion."""
    rng = np.random.default_rng(0)
    n = 30_000
    names = [[str(i), "x", str(i)] for i in range(3)]
    categories = Categories.from_json(json.dumps({"ids": [1, 2, 3], "names": names}))
    category = rng.choice([1, 2, 3], n, p=[0.9, 0.0999, 0.0001])
    asked = Questions(np.arange(n), category, rng.integers(1, 5, n).astype(np.int32))
    right_a, right_b = rng.random(n) < 0.7, rng.random(n) < 0.4
    a = Answers(np.where(right_a, category, 99))
    b = Answers(np.where(right_b, category, 99))
    found = select(asked, a, b, categories, limit=200)
    assert isinstance(found, Selection)
    changed = right_a != right_b
    assert found.totals == {
        FIXED: int((right_a & ~right_b).sum()),
        BROKE: int((~right_a & right_b).sum()),
    }
    assert len(set(found.rows.tolist())) == 200
    assert all(changed[found.rows])
    assert [kind == FIXED for kind in found.kinds] == right_a[found.rows].tolist()
    assert asked.num_images is not None
    strata = set(zip(right_a[changed], category[changed], asked.num_images[changed], strict=True))
    rows = found.rows
    shown = list(zip(right_a[rows], category[rows], asked.num_images[rows], strict=True))
    assert set(shown) == strata
    for stratum in strata:
        there = sum(
            (right_a[changed] == stratum[0])
            & (category[changed] == stratum[1])
            & (asked.num_images[changed] == stratum[2])
        )
        assert abs(shown.count(stratum) - 200 * there / changed.sum()) <= 2
    again = select(asked, a, b, categories, limit=200)
    np.testing.assert_array_equal(again.rows, found.rows)
    assert len(select(asked, a, b, categories, limit=n).rows) == changed.sum()


def test_a_prediction_file_tells_the_page_what_its_run_does(tmp_path: Path) -> None:
    """All but what a file from before contributions lacks."""
    ids = np.array([5, 6, 7], np.int64)
    block = PredictionBlock(
        product_id=np.array([11, 12, 13], np.int64),
        category_id=np.array([5, 6, 7], np.int64),
        has_category=np.ones(3, bool),
        log_prob_true=np.zeros(3, np.float32),
        num_images=np.array([3, 0, 1], np.int32),
        num_readable_images=np.array([2, 0, 1], np.int32),
        top_class=np.array([[0, 2], [1, 0], [2, 1]], np.int32),
        top_probability=np.array([[0.5, 0.25], [0.5, 0.25], [0.75, 0]], np.float32),
        image_index=np.array([0, 2, 0], np.int32),
        attention=np.array([0.25, 0.75, 1], np.float32),
        image_top_class=np.array([2, 0, 1], np.int32),
        probabilities=None,
        contribution=np.array([3.5, -0.25, 2], np.float32),
    )
    path = tmp_path / "p.parquet"
    writer = ParquetWriter(path, ids, categories_json="{}", run={})
    with written_whole([writer]):
        writer.write(block)
    of_run = list(details_of(block, ids))
    assert of_run[0] == Detail(
        [(5, 0.5), (7, 0.25)], {0: 0.25, 2: 0.75}, {0: 7, 2: 5}, {0: 3.5, 2: -0.25}
    )
    assert details_in(read_predictions(path, DETAIL_COLUMNS), block.product_id) == of_run
    without = list(details_of(dataclasses.replace(block, contribution=None), ids))
    assert without == [dataclasses.replace(detail, contribution={}) for detail in of_run]
    pq.write_table(pq.read_table(path).drop_columns("image_contribution"), path)
    assert details_in(read_predictions(path, DETAIL_COLUMNS), block.product_id) == without
