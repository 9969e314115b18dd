import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest

from product_mil.inference.top_classes import read_predictions
from product_mil.sources.categories import Categories
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool

ROOT = Path(__file__).resolve().parents[2]


export = partial(call_tool, "export_predictions")


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as left:
        export(*args)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def rows_of(path: Path) -> list[tuple[int, int]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["_id", "category_id"]
    return [(int(a), int(b)) for a, b in rows]


@pytest.fixture
def hard(sample: SampleFiles, tmp_path: Path) -> Path:
    """Ids that are not sorted, and faults of every kind, in two files."""
    records = bson.decode_all(sample.train.read_bytes())[:40]
    for place, record in enumerate(records):
        record["_id"] = (place * 7919) % 1000 - 300
        if place % 3 == 0:
            del record["category_id"]
    records[4]["imgs"] = []
    records[5]["imgs"] = [{"picture": b"no JPEG"}]
    whole = records[6]["imgs"][0]["picture"]
    records[6]["imgs"] = [{"picture": whole[: len(whole) // 8]}, {"picture": whole}]
    records[7]["category_id"] = 5  # no class of the run
    encoded = [bson.encode(record) for record in records]
    encoded.insert(10, bson.encode({"_id": 1.5, "imgs": []}))
    (tmp_path / "b.bson").write_bytes(b"".join(encoded[:30]))
    (tmp_path / "c.bson").write_bytes(b"".join(encoded[30:]) + encoded[0][:50])
    return tmp_path


def in_order(directory: Path) -> list[dict[str, Any]]:
    records = []
    for name in ("b.bson", "c.bson"):
        data = (directory / name).read_bytes()
        while len(data) > 4 and int.from_bytes(data[:4], "little") <= len(data):
            size = int.from_bytes(data[:4], "little")
            records.append(bson.decode(data[:size]))
            data = data[size:]
    return [record for record in records if isinstance(record["_id"], int)]


def test_everything(trained: Path, hard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, top, matrix = hard / "s.csv.gz", hard / "top.parquet", hard / "matrix"
    export(
        "--workdir", trained, "--data", hard / "*.bson", "--output", output,
        "--probabilities", top, "--topk", 5, "--all_probabilities", matrix,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "gated_attention over small_cnn" in said
    assert "40 products" in said
    records = in_order(hard)
    bare = f"{records[4]['_id']}, {records[5]['_id']}"
    assert f"2 products have no readable image ({bare}): predicted as " in said
    assert f"; {hard / 's.csv.gz.bad_records.csv'} says why\n" in said
    assert "1 of 26 labelled products are of no category of this run" in said
    # That without an id; the one that the end of the file cuts off has that of an earlier one.
    assert "\n1 broken records have no row\n" in said

    submission = rows_of(output)
    assert len(records) == 40
    assert [row[0] for row in submission] == [record["_id"] for record in records]

    found = read_predictions(top)
    categories = Categories.from_json(found.categories_json)
    probabilities = np.load(matrix / "probabilities.npy", mmap_mode="r")
    assert probabilities.shape == (40, len(categories.ids))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.load(matrix / "category_ids.npy"), categories.ids)
    np.testing.assert_array_equal(np.load(matrix / "ids.npy"), found.column("product_id"))
    assert [row[0] for row in submission] == found.column("product_id").tolist()
    assert [row[1] for row in submission] == categories.ids[probabilities.argmax(1)].tolist()

    best = np.argsort(-probabilities, 1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.column("top_category_id"), categories.ids[best])
    kept = np.take_along_axis(probabilities, best, 1)
    np.testing.assert_array_equal(found.column("top_probability"), kept)
    np.testing.assert_allclose(found.column("remaining_probability"), 1 - kept.sum(1), atol=1e-5)
    for row, record in zip(found.table.to_pylist(), records, strict=True):
        assert row["category_id"] == record.get("category_id")
        assert row["num_images"] == len(record["imgs"])
        place = categories.class_of(np.array([record.get("category_id", -1)]))[0]
        if place < 0:
            assert row["log_prob_true"] is None
        else:
            own = probabilities[found.column("product_id") == record["_id"], place]
            assert row["log_prob_true"] == pytest.approx(np.log(own[0]), abs=1e-5)
    lists = found.table.slice(4, 3).select(["image_index", "num_readable_images"]).to_pylist()
    assert [(row["image_index"], row["num_readable_images"]) for row in lists] == [
        ([], 0), ([], 0), ([1], 1),
    ]  # fmt: skip
    assert found.run["stage"] == "finetune"
    assert found.run["predicted_files"] == [str(hard / "b.bson"), str(hard / "c.bson")]

    with (hard / "s.csv.gz.bad_records.csv").open(newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert {str(records[4]["_id"]), str(records[5]["_id"])} <= {r["product_id"] for r in listed}
    assert {row["product_id"] for row in listed if row["image_index"]} == {
        str(records[k]["_id"]) for k in (0, 5, 6)  # 0: cut off by the end of the file
    }  # fmt: skip
    assert not list(hard.rglob("*.draft"))


def test_levels(trained: Path, hard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calibrated on the run's validation part; every row as the matrix has it."""
    export(
        "--workdir", trained, "--data", hard / "*.bson", "--output", hard / "s.csv",
        "--all_probabilities", hard / "matrix", "--min_confidence", 0.05,
    )  # fmt: skip
    said = capsys.readouterr().out
    found = re.search(r"calibrated on the run's validation products: temperature (\d+\.\d+)", said)
    assert found is not None
    probabilities = np.load(hard / "matrix" / "probabilities.npy").astype(np.float64)
    sharp = probabilities ** (1 / float(found[1]))
    sharp /= sharp.sum(1, keepdims=True)
    records = in_order(hard)
    imageless = [record["_id"] in (records[4]["_id"], records[5]["_id"]) for record in records]
    sharp[imageless] = probabilities[imageless]
    ids = np.load(hard / "matrix" / "category_ids.npy").tolist()
    about = json.loads((hard / "matrix" / "about.json").read_text(encoding="utf-8"))
    names = [tuple(name) for name in about["categories"]["names"]]
    with (hard / "s.csv.levels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["_id"]) for row in rows] == [record["_id"] for record in records]
    levels = set()
    for row, of_class in zip(rows, sharp, strict=True):
        level, written = int(row["level"]), float(row["probability"])
        levels.add(level)
        sums: list[dict[tuple[str, ...], float]] = [{}, {}, {}, {}]
        for name, probability in zip(names, of_class, strict=True):
            for depth in range(4):
                sums[depth][name[:depth]] = sums[depth].get(name[:depth], 0) + probability
        node = tuple(row[f"category_level{depth}"] for depth in range(1, level + 1))
        assert written == pytest.approx(max(sums[level].values()), abs=1e-3)
        assert sums[level][node] == pytest.approx(written, abs=1e-3)
        if level < 3:
            assert max(sums[level + 1].values()) < 0.05 + 1e-3
            assert row["category_id"] == ""
        else:
            assert names[ids.index(int(row["category_id"]))] == node
    assert max(levels) >= 1
    assert "s.csv.levels.csv, at least 0.05 sure:" in said


def test_again_and_otherwise(
    trained: Path, hard: Path, sample: SampleFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files come in the order given; a clean file leaves no old list behind."""
    pair = f"{hard / 'c.bson'},{hard / 'b.bson'}"
    output = hard / "x.csv"
    export("--workdir", trained, "--data", pair, "--output", output, "--checkpoint", "best")
    ids = [record["_id"] for record in in_order(hard)]
    assert [row[0] for row in rows_of(output)] == ids[29:] + ids[:29]
    assert (hard / "x.csv.bad_records.csv").exists()
    export(
        "--workdir", trained, "--data", sample.train, "--output", output,
        "--probabilities", hard / "p", "--topk", 1000, "--images_per_batch", 16,
    )  # fmt: skip
    assert "readable" not in capsys.readouterr().out.splitlines()[-1]
    assert len(rows_of(output)) == 120
    assert not (hard / "x.csv.bad_records.csv").exists()
    found = read_predictions(hard / "p")
    num_classes = len(Categories.from_json(found.categories_json).ids)
    assert found.column("top_category_id").shape == (120, num_classes)
    np.testing.assert_allclose(found.column("remaining_probability"), 0, atol=1e-5)


def test_refusals(
    trained: Path, sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = sample.train, tmp_path / "s.csv"
    good = ("--workdir", trained, "--data", data)
    assert "no such directory" in refused(
        capsys, "--workdir", tmp_path / "no", "--data", data, "--output", output
    )
    assert "no checkpoint" in refused(
        capsys, "--workdir", tmp_path, "--data", data, "--output", output
    )
    assert "no directory" in refused(capsys, *good, "--output", tmp_path / "no" / "s.csv")
    assert "is a directory" in refused(capsys, *good, "--output", tmp_path)
    assert "no such file" in refused(
        capsys, "--workdir", trained, "--data", tmp_path / "no.bson", "--output", output
    )
    copy = tmp_path / "data.bson"
    copy.write_bytes(data.read_bytes())
    assert "is the data itself" in refused(
        capsys, "--workdir", trained, "--data", copy, "--output", copy
    )
    assert copy.read_bytes() == data.read_bytes()
    assert "named for two outputs" in refused(
        capsys, *good, "--output", output, "--probabilities", output
    )
    assert "--topk=0" in refused(capsys, *good, "--output", output, "--topk", 0)
    assert "--images_per_batch=0" in refused(
        capsys, *good, "--output", output, "--images_per_batch", 0
    )
    assert "is a file: name a directory" in refused(
        capsys, *good, "--output", output, "--all_probabilities", copy
    )
    assert [p.name for p in tmp_path.iterdir()] == ["data.bson"]


@pytest.mark.slow
def test_as_a_command(trained: Path, sample: SampleFiles, tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "tools" / "export_predictions.py"), "--workdir", str(trained),
        "--data", str(sample.train), "--output", str(tmp_path / "s.csv"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows_of(tmp_path / "s.csv")) == 120
