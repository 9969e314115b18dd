"""The same products under ids of another kind get the same model, predictions and scores."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import bson
import numpy as np
import pyarrow.parquet as pq
import pytest
from bson import ObjectId

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool


def product_id(number: int) -> ObjectId:
    return ObjectId(f"{number:024x}")


def category_id(number: int) -> str:
    return f"küche, {number:010d}"  # sorted as the numbers are


class Data(NamedTuple):
    train: Path
    valid: Path
    categories: Path
    run: Path


def train(data: Data) -> Data:
    # The validation products are named, because a split is drawn by their ids.
    config = Config(
        data=DataConfig(
            train=str(data.train),
            valid=str(data.valid),
            categories=str(data.categories),
            image_size_px=32,
            embedding_cache=False,
        ),
        model=ModelConfig(backbone="small_cnn", pooling="posterior_attention"),
        head=StageConfig(epochs=0, trainable="head", images_per_batch=32),
        finetune=StageConfig(epochs=2, images_per_batch=32, learning_rate=3e-3),
    )
    run(config, data.run)
    return data


@pytest.fixture(scope="module")
def numbered(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Data:
    there = tmp_path_factory.mktemp("numbered")
    records = [bson.encode(record) for record in bson.decode_all(sample.train.read_bytes())]
    (there / "train.bson").write_bytes(b"".join(records[:96]))
    (there / "valid.bson").write_bytes(b"".join(records[96:]))
    return train(Data(there / "train.bson", there / "valid.bson", sample.categories, there / "run"))


@pytest.fixture(scope="module")
def named(numbered: Data, tmp_path_factory: pytest.TempPathFactory) -> Data:
    there = tmp_path_factory.mktemp("named")
    for path in (numbered.train, numbered.valid):
        records = bson.decode_all(path.read_bytes())
        for record in records:
            record["_id"] = product_id(record["_id"])
            record["category_id"] = category_id(record["category_id"])
        (there / path.name).write_bytes(b"".join(map(bson.encode, records)))
    with numbered.categories.open() as file:
        header, *rows = csv.reader(file)
    with (there / "names.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *([category_id(int(a)), *b] for a, *b in rows)])
    return train(
        Data(there / "train.bson", there / "valid.bson", there / "names.csv", there / "run")
    )


def export(data: Data, there: Path) -> Path:
    call_tool(
        "export_predictions",
        *("--workdir", data.run, "--data", data.valid, "--output", there / "s.csv"),
        *("--probabilities", there / "p.parquet", "--all_probabilities", there / "all.npy"),
        *("--min_confidence", "0.5"),
    )
    return there


@pytest.fixture(scope="module")
def exported(
    numbered: Data, named: Data, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return (
        export(numbered, tmp_path_factory.mktemp("numbered_out")),
        export(named, tmp_path_factory.mktemp("named_out")),
    )


@pytest.mark.slow
def test_files_of_predictions(exported: tuple[Path, Path]) -> None:
    by_number, by_name = exported
    with (by_number / "s.csv").open() as numbers, (by_name / "s.csv").open() as names:
        rows, (header, *found) = list(csv.reader(numbers))[1:], csv.reader(names)
    assert header == ["_id", "category_id"]
    assert found == [[str(product_id(int(a))), category_id(int(b))] for a, b in rows]
    numbers, names = (
        pq.read_table(there / "p.parquet").to_pydict() for there in (by_number, by_name)
    )
    assert names["product_id"] == [str(product_id(i)) for i in numbers["product_id"]]
    assert names["category_id"] == [category_id(i) for i in numbers["category_id"]]
    for column in ("top_category_id", "image_category_id"):
        expected = [list(map(category_id, row)) for row in numbers[column]]
        assert names[column] == expected
    for column in ("log_prob_true", "top_probability", "image_attention", "num_images"):
        assert names[column] == numbers[column]
    assert (by_name / "all.npy").read_bytes() == (by_number / "all.npy").read_bytes()
    ids = np.load(by_name / "all.ids.npy")
    assert ids.tolist() == names["product_id"]
    numbers, names = (
        list(csv.reader((there / "s.csv.levels.csv").read_text().splitlines()))
        for there in exported
    )
    assert [row[3:] for row in names] == [row[3:] for row in numbers]


def test_scores(numbered: Data, named: Data, capsys: pytest.CaptureFixture[str]) -> None:
    scores = []
    for data in (numbered, named):
        call_tool("evaluate", "--workdir", data.run, "--data", data.valid, "--json")
        scores.append(json.loads(capsys.readouterr().out))
    for score in scores:
        score.pop("remarks")  # they name the files
    assert scores[0] == scores[1]
    assert scores[0]["products"] == 24


@pytest.mark.slow
def test_comparison_and_ensemble(
    numbered: Data, named: Data, exported: tuple[Path, Path], tmp_path: Path
) -> None:
    by_name = exported[1]
    truth = bson.decode_all(named.valid.read_bytes())
    with (tmp_path / "right.csv").open("w", newline="") as file:
        rows = [[str(record["_id"]), record["category_id"]] for record in truth]
        csv.writer(file).writerows([["_id", "category_id"], *rows])
    call_tool(
        "compare",
        *("--predictions", f"a={by_name}/p.parquet", f"b={by_name}/s.csv", f"c={by_name}/all.npy"),
        f"right={tmp_path}/right.csv",
        *("--runs", f"named={named.run}"),
        *("--data", named.valid, "--output", tmp_path / "page"),
    )
    found = json.loads((tmp_path / "page" / "comparison.json").read_text())
    scores = [found["runs"][name]["accuracy"] for name in ("a", "b", "c", "named")]
    assert found["n"] == 24
    assert len(set(scores)) == 1
    assert found["runs"]["right"]["accuracy"] == 1
    page = (tmp_path / "page" / "index.html").read_text()
    assert str(truth[0]["_id"]) in page
    assert json.dumps(truth[0]["category_id"]) in page
    call_tool(
        "ensemble",
        *("--predictions", by_name / "p.parquet", by_name / "all.npy", "--weights", "1,1"),
        *("--output", tmp_path / "together.csv"),
    )
    assert (tmp_path / "together.csv").read_bytes() == (by_name / "s.csv").read_bytes()


def test_ids_that_are_written_alike_are_the_same(
    numbered: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of integers is measured on the same products with their ids as text."""
    records = bson.decode_all(numbered.valid.read_bytes())
    for record in records:
        record["_id"], record["category_id"] = str(record["_id"]), str(record["category_id"])
    path = tmp_path / "text.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    scores = []
    for data in (numbered.valid, path):
        call_tool("evaluate", "--workdir", numbered.run, "--data", data, "--json")
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]  # also in what it has seen of them
