import dataclasses
import errno
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from product_mil.errors import UserError
from product_mil.files.outputs import check_output
from product_mil.inference import top_classes
from product_mil.inference.matrix import MatrixWriter, read_description
from product_mil.inference.predictions import PredictionBlock, Writer, written_whole
from product_mil.inference.submission import SubmissionWriter
from product_mil.inference.top_classes import TOP_CLASSES, ParquetWriter, read_predictions

CLASS_IDS = np.array([7, 2**40, 2**62], np.int64)
CATEGORIES = json.dumps({"ids": CLASS_IDS.tolist(), "names": [["a", "b", "é"]] * 3})
RUN = {"step": 3}

# Two images, none, one; the second product has no category, the third one that is no class.
BLOCK = PredictionBlock(
    product_id=np.array([-5, 2**50, 3], np.int64),
    category_id=np.array([7, -(2**63), 8], np.int64),
    has_category=np.array([True, False, True]),
    log_prob_true=np.array([np.log(0.5), np.nan, np.nan], np.float32),
    num_images=np.array([3, 0, 1], np.int32),
    num_readable_images=np.array([2, 0, 1], np.int32),
    top_class=np.array([[0, 2], [1, 0], [2, 1]], np.int32),
    top_probability=np.array([[0.5, 0.3], [0.4, 0.3], [1.0, 0.0]], np.float32),
    image_index=np.array([0, 2, 0], np.int32),
    attention=np.array([0.25, 0.75, 1], np.float32),
    image_top_class=np.array([2, 0, 1], np.int32),
    probabilities=np.array([[0.5, 0.2, 0.3], [0.3, 0.4, 0.3], [0, 0, 1]], np.float32),
    contribution=np.array([3.5, -0.25, 2], np.float32),
)


def block_of(product_id: int) -> PredictionBlock:
    one = {name: value[:1] for name, value in vars(BLOCK).items() if name != "product_id"}
    names = ("image_index", "attention", "image_top_class", "contribution")
    images = {name: vars(BLOCK)[name][:2] for name in names}
    return PredictionBlock(**{**one, **images, "product_id": np.array([product_id], np.int64)})


def write(writers: list[Writer], *blocks: PredictionBlock) -> None:
    with written_whole(writers):
        for block in blocks:
            for writer in writers:
                writer.write(block)


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
def test_submission(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write([SubmissionWriter(path, CLASS_IDS)], BLOCK, block_of(9))
    data = path.read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    assert text == f"_id,category_id\n-5,7\n{2**50},{2**40}\n3,{2**62}\n9,7\n"
    write([SubmissionWriter(path, CLASS_IDS)], BLOCK, block_of(9))
    assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    assert pq.read_table(path).drop_columns("log_prob_true").to_pylist() == [
        {
            "product_id": -5, "category_id": 7, "num_images": 3, "num_readable_images": 2,
            "top_category_id": [7, 2**62], "top_probability": pytest.approx([0.5, 0.3]),
            "remaining_probability": pytest.approx(0.2), "image_index": [0, 2],
            "image_attention": [0.25, 0.75], "image_category_id": [2**62, 7],
            "image_contribution": [3.5, -0.25],
        },
        {
            "product_id": 2**50, "category_id": None, "num_images": 0, "num_readable_images": 0,
            "top_category_id": [2**40, 7], "top_probability": pytest.approx([0.4, 0.3]),
            "remaining_probability": pytest.approx(0.3), "image_index": [],
            "image_attention": [], "image_category_id": [],
            "image_contribution": [],
        },
        {
            "product_id": 3, "category_id": 8, "num_images": 1, "num_readable_images": 1,
            "top_category_id": [2**62, 2**40], "top_probability": [1, 0],
            "remaining_probability": 0, "image_index": [0],
            "image_attention": [1], "image_category_id": [2**40],
            "image_contribution": [2],
        },
    ]  # fmt: skip
    found = read_predictions(path)
    assert (found.categories_json, found.run) == (CATEGORIES, RUN)
    np.testing.assert_array_equal(
        found.column("top_category_id"), [[7, 2**62], [2**40, 7], [2**62, 2**40]]
    )
    assert found.column("top_category_id").dtype == np.int64
    np.testing.assert_array_equal(found.column("log_prob_true"), BLOCK.log_prob_true)
    assert found.table.column("log_prob_true").null_count == 2
    np.testing.assert_array_equal(found.column("product_id"), BLOCK.product_id)


def test_a_head_that_is_no_sum_over_images_has_no_contributions(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    writer = ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)
    write([writer], dataclasses.replace(BLOCK, contribution=None))
    found = pq.read_table(path)
    assert found["image_contribution"].to_pylist() == [None] * 3
    assert found["image_attention"].to_pylist() == [[0.25, 0.75], [], [1]]


@pytest.mark.parametrize("columns", [None, ("product_id", "image_contribution"), ("num_images",)])
def test_files_from_before_contributions_open(
    tmp_path: Path, columns: tuple[str, ...] | None
) -> None:
    path = tmp_path / "p.parquet"
    write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    new = pq.read_table(path)
    old = new.drop_columns("image_contribution")
    pq.write_table(old, path)
    found = read_predictions(path, columns).table
    assert found.column_names == list(columns or new.column_names)
    if columns != ("num_images",):
        assert found["image_contribution"].to_pylist() == [None] * 3
        assert found.schema.field("image_contribution") == new.schema.field("image_contribution")
    assert found.select(found.column_names[:1]) == old.select(found.column_names[:1])


def test_parquet_in_several_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_classes, "ROWS_PER_GROUP", 4)
    path = tmp_path / "p.parquet"
    writer = ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)
    write([writer], *map(block_of, range(10)))
    assert pq.ParquetFile(path).num_row_groups == 3
    np.testing.assert_array_equal(read_predictions(path).column("product_id"), np.arange(10))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("m", ["m/probabilities.npy", "m/ids.npy", "m/category_ids.npy", "m/about.json"]),
        ("a.npy", ["a.npy", "a.ids.npy", "a.category_ids.npy", "a.about.json"]),
    ],
)
def test_matrix(tmp_path: Path, given: str, names: list[str]) -> None:
    writer = MatrixWriter(tmp_path / given, CLASS_IDS, 4, categories_json=CATEGORIES, run=RUN)
    write([writer], BLOCK, block_of(9))
    matrix, ids, columns = (np.load(tmp_path / name, mmap_mode="r") for name in names[:3])
    assert BLOCK.probabilities is not None
    np.testing.assert_array_equal(
        matrix, np.concatenate([BLOCK.probabilities, BLOCK.probabilities[:1]])
    )
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(ids, [-5, 2**50, 3, 9])
    np.testing.assert_array_equal(columns, CLASS_IDS)
    about = json.loads((tmp_path / names[3]).read_text(encoding="utf-8"))
    assert about == {"format": "1", "categories": json.loads(CATEGORIES), "run": RUN}
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(names)


def test_matrix_needs_room(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"need 180143985\.1 GB, the disk has"):
        MatrixWriter(tmp_path / "m", CLASS_IDS, 2**53, categories_json=CATEGORIES, run=RUN)


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("earlier")
    writers: list[Writer] = [
        SubmissionWriter(path, CLASS_IDS),
        ParquetWriter(tmp_path / "p", CLASS_IDS, categories_json=CATEGORIES, run=RUN),
        MatrixWriter(tmp_path / "m.npy", CLASS_IDS, 3, categories_json=CATEGORIES, run=RUN),
    ]
    wrong = dataclasses.replace(BLOCK, top_class=np.full((3, 2), 3, np.int32))  # no such class
    with pytest.raises(IndexError):
        write(writers, BLOCK, wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["s.csv"]
    assert path.read_text() == "earlier"


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*s\.csv: .*No space left"):
        write([SubmissionWriter(tmp_path / "s.csv", CLASS_IDS)], BLOCK)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(UserError, match="cannot read predictions"):
        read_predictions(path)
    path.write_text("no Parquet")
    with pytest.raises(UserError, match="no Parquet file of predictions"):
        read_predictions(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match="was not written by"):
        read_predictions(path)


@pytest.mark.parametrize("number", ["2", "99", "", "one"])
def test_unknown_formats(tmp_path: Path, number: str) -> None:
    """Also where the columns are others."""
    path = tmp_path / "p.parquet"
    table = pa.table({"a": [1]}).replace_schema_metadata(
        {"product_mil.format": number, "product_mil.version": "9.1"}
    )
    pq.write_table(table, path)
    with pytest.raises(UserError, match=rf"of format {number}, written by product_mil 9\.1"):
        read_predictions(path, ("product_id",))
    about = tmp_path / "about.json"
    said = {"format": number, "categories": json.loads(CATEGORIES), "run": {"version": "9.1"}}
    about.write_text(json.dumps(said))
    with pytest.raises(UserError, match=rf"of format {number}, written by product_mil 9\.1"):
        read_description(about)
    about.write_text(json.dumps({**said, "format": "1"}))
    assert read_description(about)["categories"] == json.loads(CATEGORIES)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"categories": {"ids": [1]}}']
)
def test_damaged_descriptions(tmp_path: Path, content: bytes) -> None:
    about = tmp_path / "about.json"
    about.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*about\.json") as caught:
        read_description(about)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"[\xff].parquet")
    for _ in range(2):  # the second time over the first
        check_output(path, TOP_CLASSES)
        write([ParquetWriter(path, CLASS_IDS, categories_json=CATEGORIES, run=RUN)], BLOCK)
    np.testing.assert_array_equal(read_predictions(path).column("product_id"), BLOCK.product_id)
