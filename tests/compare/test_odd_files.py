"""Prediction files without rows, of another name, or that do not say what they hold."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from product_mil.compare.gather.files import read_answers
from product_mil.errors import UserError
from product_mil.inference.top_classes import ParquetWriter
from tests.inference.test_files import BLOCK, CATEGORIES, CLASS_IDS, RUN, write


@pytest.mark.parametrize("name", ["p.parquet", "P.PARQUET", "p"])
def test_any_name_that_can_be_written_can_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    np.testing.assert_array_equal(read_answers(path, None).product_id, BLOCK.product_id)


def test_without_rows(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("_id,category_id\n")
    with pytest.raises(UserError, match=r"s\.csv holds no product"):
        read_answers(tmp_path / "s.csv", None)
    path = tmp_path / "p.parquet"
    write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(UserError, match=r"p\.parquet holds no product"):
        read_answers(path, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("categories", "{}"), ("categories", "x"), ("run", "{"), ("run", "[]"), ("run", "[1]")],
)
def test_odd_metadata_is_one_line(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "p.parquet"
    write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata) | {f"product_mil.{field}".encode(): value.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    if (field, value) == ("run", "[]"):  # nothing is known of the run
        assert read_answers(path, None).run == {}
        return
    with pytest.raises(UserError, match="does not say") as error:
        read_answers(path, None)
    assert "\n" not in str(error.value)
