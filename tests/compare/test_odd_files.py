"""Prediction files without rows, of another name or for other labels, damaged or changed."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from product_mil.compare.answers import Questions
from product_mil.compare.gather.files import read_answers
from product_mil.compare.gather.sources import read_file
from product_mil.errors import UserError
from product_mil.inference.matrix import MatrixWriter
from product_mil.inference.top_classes import ParquetWriter
from product_mil.sources.ids import NO_CATEGORY
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


def parquet(path: Path) -> Path:
    write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    return path


def labelled(*category_id: int) -> Questions:
    return Questions(BLOCK.product_id, np.array(category_id, np.int64), None)


def test_the_likelihood_is_that_of_the_labels_that_are_given(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet")
    # The first label is another one than the file's, the second is new, the third is no class.
    found = read_answers(path, labelled(2**62, 2**40, 8)).answers.log_prob_true
    assert found is not None
    np.testing.assert_allclose(found, [np.log(0.3), np.log(0.4), np.nan], rtol=1e-6)
    # Those of the file itself; a product without a label is not compared.
    notes: list[str] = []
    source = read_file(path, labelled(7, NO_CATEGORY, 2**62), notes)
    assert source.knows.tolist() == [True, False, True]
    assert ", likelihood (" not in notes[0]


def test_without_the_probability_of_a_label_there_is_no_likelihood(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet")
    notes: list[str] = []
    source = read_file(path, labelled(2**40, 2**40, 8), notes)  # of 7 and 2**62 the file has some
    assert source.answers["own"].log_prob_true is None
    assert source.knows.tolist() == [True, True, False]
    assert ", likelihood (it keeps 2 classes, and was made without these labels)" in notes[0]


def lists(*rows: object) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32(), 2))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "top_probability",
            lists([0.5, 0.3], [np.nan, 0.3], [1, 0]),
            f"product {2**50} are no probabilities",
        ),
        ("top_probability", lists([0.5, 0.3], [0.4, 0.3], [3, 0]), "product 3 are no prob.* to 3"),
        ("top_probability", lists([0.9, -0.1], [0.4, 0.3], [1, 0]), "product -5 are no prob"),
        ("top_probability", lists([0.5, 0.3], None, [1, 0]), "top_probability has empty values"),
        ("product_id", pa.array([1, 2, 2]), "has product 2 more than once"),
        ("product_id", pa.array([1.0, 2.0, 3.0]), "product_id holds values of type double"),
        ("product_id", pa.array([1, None, 3]), "product_id has empty values"),
    ],
)
def test_a_table_that_was_changed_is_refused(
    tmp_path: Path, column: str, values: pa.Array, message: str
) -> None:
    path = parquet(tmp_path / "p.parquet")
    table = pq.read_table(path)
    changed = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(UserError, match=rf"p\.parquet.*{message}"):
        read_answers(path, None)


def test_a_matrix_without_probabilities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    about = {"categories_json": CATEGORIES, "run": RUN}
    write([MatrixWriter(path, CLASS_IDS, len(BLOCK), **about)], BLOCK)
    confidence = read_answers(path, labelled(7, 7, 7)).answers.confidence
    assert confidence is not None
    np.testing.assert_allclose(confidence, [0.5, 0.4, 1])
    np.save(path / "category_ids.npy", CLASS_IDS[::-1])
    with pytest.raises(UserError, match=r"category_ids\.npy and .*about\.json name other"):
        read_answers(path, labelled(7, 7, 7))
    np.save(path / "category_ids.npy", CLASS_IDS)
    numbers = np.load(path / "probabilities.npy")
    numbers[1, 0] = np.nan
    np.save(path / "probabilities.npy", numbers)
    with pytest.raises(UserError, match=rf"m: what it says of product {2**50} are no prob"):
        read_answers(path, labelled(7, 7, 7))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", b"_id,category_id\n4,7\n5,7\n4,8\n", "has product 4 more than once"),
        (
            "s.csv.gz",
            gzip.compress(b"_id,category_id\n4,5\n6,7\n", mtime=0)[:-9],
            "cannot read",
        ),
        ("s.csv.gz", gzip.compress(b"_id,category_id\n1,2\n", mtime=0)[:12], "cannot read"),
    ],
)
def test_a_submission_that_is_cut_or_repeats_a_product(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_answers(tmp_path / name, None)


def test_an_id_of_a_submission_may_have_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text('_id,category_id\n"a\nb",7\nc,8\n')
    assert read_answers(tmp_path / "s.csv", None).product_id.tolist() == ["a\nb", "c"]


@pytest.mark.parametrize("name", ["p", "p.csv", "p.parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"is a pipe, no .* file of predictions; save it to a file"):
        read_answers(tmp_path / name, None)
