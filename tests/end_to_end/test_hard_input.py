"""Every kind of damage in one file, through the real tools, on a small trained run."""

import json
import logging
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest

from benchmarks.parts import hard_input
from product_mil.cli.evaluate import main as evaluate
from product_mil.cli.export_predictions import main as export
from product_mil.config import AugmentConfig, Config, DataConfig, ModelConfig, StageConfig
from product_mil.data.faults import FaultList
from product_mil.errors import UserError
from product_mil.inference.top_classes import read_predictions
from product_mil.runs.data import build_data
from product_mil.runs.run import run
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.sample.draw import SampleFiles


def exported(trained: Path, data: Path, output: Path) -> dict[int, dict[str, Any]]:
    top = output.with_suffix(".parquet")
    names = ["--workdir", trained, "--data", data, "--output", output, "--probabilities", top]
    export([*map(str, names), "--topk", "29"])
    return {row["product_id"]: row for row in read_predictions(top).table.to_pylist()}


def test_all_is_listed_and_predicted(
    trained: Path, sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole products predict the same to the bit, damaged ones what their images say."""
    data, clean, output = (tmp_path / name for name in ("hard.bson", "clean.bson", "s.csv"))
    hard = hard_input.write_hard_file(data, sample, 120, 0.017)
    assert set(hard.kinds.values()) == set(hard_input.DAMAGE)
    clean.write_bytes(b"".join(map(bson.encode, hard_input.records_of(sample, 120))))
    found, wanted = exported(trained, data, output), exported(trained, clean, tmp_path / "c.csv")
    _, wrong = hard_input.check(hard, output)
    assert wrong == []

    unharmed = {"record length", "record's closing", "repeated id", "category_id is", "unknown cat"}
    # Of the cut-off record the images are used that are there as a whole: all but the last.
    cut, (whole, *_) = found.pop(hard_input.CUT_ID), hard_input.records_of(sample, 1)
    assert cut["num_images"] == len(whole["imgs"])
    assert cut["num_readable_images"] == len(whole["imgs"]) - 1
    assert cut["category_id"] == whole["category_id"]
    for number, row in found.items():
        kind = hard.kinds.get(number, "")
        if not kind or any(kind.startswith(name) for name in unharmed):
            for name in ("num_images", "num_readable_images", "image_index", "top_category_id"):
                assert row[name] == wanted[number][name], (kind, name)
            # The batch's other products may differ, and with them the order of sums.
            np.testing.assert_allclose(
                row["top_probability"], wanted[number]["top_probability"], atol=1e-5
            )
        elif kind in ("picture is text", "length of a picture"):
            # The first image is lost, and the others keep their places.
            count = wanted[number]["num_images"]
            assert row["num_images"] == count
            assert row["image_index"] == list(range(1, count))

    listed = tmp_path / "faults.csv"
    capsys.readouterr()
    names = ["--workdir", trained, "--data", data, "--faults", listed, "--json"]
    evaluate([*map(str, names)])
    printed = json.loads(capsys.readouterr().out)
    labelled = [row for row in [*found.values(), cut] if row["log_prob_true"] is not None]
    assert printed["products"] == len(labelled)
    assert printed["nll"] == pytest.approx(
        -np.mean([r["log_prob_true"] for r in labelled]), abs=1e-4
    )
    in_list = {line.split(",")[2] for line in listed.read_text().splitlines()[1:]}
    exports_list = output.with_name("s.csv.bad_records.csv").read_text().splitlines()[1:]
    # Evaluation needs a known category, and an export does not.
    unknown = {str(number) for number, kind in hard.kinds.items() if kind == "unknown category"}
    assert in_list == {line.split(",")[2] for line in exports_list} | unknown


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_product_is_lost_whatever_the_damage_meets(
    sample: SampleFiles, tmp_path: Path, seed: int
) -> None:
    """What the index alone makes of other mixtures than the one above."""
    path = tmp_path / "hard.bson"
    hard = hard_input.write_hard_file(path, sample, 1000, 0.02, seed)
    catalogue = open_catalogue(path)
    with_id = {number for number, expected in hard.expected.items() if expected.has_row}
    wanted = with_id | set(hard.whole) | {hard_input.CUT_ID}
    assert set(catalogue.product_id.tolist()) == wanted
    assert catalogue.unread_bytes == 0
    named = {fault.product_id for _, fault in catalogue.faults}
    assert named.isdisjoint(hard.whole)
    broken = ("record", "bytes lost", "length of", "no imgs", "imgs is", "empty", "repeated")
    assert named >= {n for n, kind in hard.kinds.items() if kind.startswith(broken)}
    nameless = sum(fault.product_id is None for _, fault in catalogue.faults)
    assert nameless == sum(not expected.has_row for expected in hard.expected.values())


def record(number: int, *pictures: bytes, category_id: int = 1) -> dict[str, Any]:
    return {"_id": number, "category_id": category_id, "imgs": [{"picture": p} for p in pictures]}


@pytest.fixture(scope="module")
def photo(sample: SampleFiles) -> bytes:
    return bson.decode_all(sample.train.read_bytes())[0]["imgs"][0]["picture"]


def config_of(data: Path, **options: Any) -> Config:
    return Config(
        data=DataConfig(train=str(data), image_size_px=32, embedding_cache=False, **options),
        model=ModelConfig(backbone="small_cnn"),
        head=StageConfig(epochs=0, trainable="head"),
        finetune=StageConfig(epochs=1, images_per_batch=16),
    )


@pytest.mark.parametrize(
    ("bad", "policy", "message"),
    [
        ([b"", b"x"], "bad_images", "byte 5[0-9][0-9]+: image 0 of product 9: the image has no"),
        ([], "bad_records", "byte [0-9]+: product 9: imgs is empty; correct the file"),
    ],
)
def test_the_policy_fail_stops_with_one_line(
    tmp_path: Path, photo: bytes, bad: list[bytes], policy: str, message: str
) -> None:
    products = [record(i, photo + bytes([i]), category_id=i % 2) for i in range(8)]
    products.append(record(9, *bad))
    path = tmp_path / "a.bson"
    path.write_bytes(b"".join(map(bson.encode, products)))
    with pytest.raises(UserError, match=message) as error:
        run(config_of(path, valid=str(path), **{policy: "fail"}), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert f"{policy}=skip" in str(error.value)
    assert str(path) in str(error.value)


def test_bad_rows_of_the_category_file(tmp_path: Path, photo: bytes) -> None:
    """Refused by default; left out and listed on request, with their products."""
    path, names = tmp_path / "a.bson", tmp_path / "names.csv"
    products = [record(i, photo + bytes([i]), category_id=i % 3) for i in range(12)]
    path.write_bytes(b"".join(map(bson.encode, products)))
    head = b"category_id,category_level1,category_level2,category_level3\n"
    names.write_bytes(head + b"0,A,B,C\n1,A,B,D\n1,A,B,E\n2,A,\xe9,F\n")
    options: dict[str, Any] = {"categories": str(names), "valid": str(path)}
    with pytest.raises(UserError, match="line 4: category_id 1 was on line 3; line 5: not UTF-8"):
        build_data(config_of(path, **options))
    data = build_data(config_of(path, **options, bad_categories="skip"))
    faults = FaultList(tmp_path / "bad.csv")
    faults.add_products(data.product_faults)
    faults.add_rows(names, data.category_faults)
    faults.write()
    listed = (tmp_path / "bad.csv").read_text()
    assert f"{names},line 4,,,category row left out: category_id 1 was on line 3" in listed
    assert f"{names},line 5,,,category row left out: not UTF-8" in listed
    assert listed.count("unknown category: 2 is not in the category file") == 4
    assert f"{names}: 2 bad rows left out" in data.notes


def test_categories_that_the_file_lacks(tmp_path: Path, photo: bytes) -> None:
    """A few are left out and listed; most of them mean a file of other data, and are refused."""
    path, names = tmp_path / "a.bson", tmp_path / "names.csv"
    products = [record(i, photo + bytes([i]), category_id=[0, 0, 1, 2][i % 4]) for i in range(16)]
    del products[0]["category_id"]
    path.write_bytes(b"".join(map(bson.encode, products)))
    head = "category_id,category_level1,category_level2,category_level3\n"
    options: dict[str, Any] = {"categories": str(names), "valid": str(path)}
    names.write_text(head + "0,A,B,C\n1,A,B,D\n")
    data = build_data(config_of(path, **options))
    assert len(data.train) == 11
    assert "1 training products have no category_id: left out" in data.notes
    lacks = f"{names} lacks 1 categories of 4 training products (2 of 4 products)"
    assert f"{lacks}: left out; add rows for them to train on these too" in data.notes
    names.write_text(head + "1,A,B,D\n5,A,B,E\n")
    with pytest.raises(UserError, match="lacks 2 categories of 11 training products") as error:
        build_data(config_of(path, **options))
    assert "(0 of 7 products, 2 of 4 products), more than half of them" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(build_data(config_of(path, **options, bad_categories="skip")).train) == 4


@pytest.mark.slow
def test_augmentation_turns_the_embedding_cache_off_and_says_so(
    tmp_path: Path, photo: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    path = tmp_path / "a.bson"
    products = [record(i, photo + bytes([i]), category_id=i % 2) for i in range(12)]
    path.write_bytes(b"".join(map(bson.encode, products)))
    config = Config(
        data=DataConfig(train=str(path), valid=str(path), image_size_px=32),
        head=StageConfig(
            epochs=1, trainable="head", images_per_batch=16, augment=AugmentConfig(flip=0.5)
        ),
        finetune=StageConfig(epochs=0),
    )

    def never(*_: object) -> None:
        raise AssertionError("embedded for a cache")

    monkeypatch.setattr("product_mil.runs.feed.cached_embeddings", never)
    caplog.set_level(logging.INFO, "product_mil")
    run(config, tmp_path / "run")
    assert "augmentation is on: no embedding cache" in caplog.text


@pytest.mark.slow
def test_views_in_both_tools(
    trained: Path, sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluation and export average over the same views."""
    found = {}
    for views in ("none", "flip"):
        names = ["--workdir", str(trained), "--data", str(sample.train)]
        capsys.readouterr()
        evaluate([*names, "--json", "--tta", views])
        printed = json.loads(capsys.readouterr().out)
        top = tmp_path / f"{views}.parquet"
        output = str(tmp_path / f"{views}.csv")
        export([*names, "--output", output, "--probabilities", str(top), "--tta", views])
        predictions = read_predictions(top)
        assert printed["nll"] == pytest.approx(
            -predictions.column("log_prob_true").mean(), abs=1e-4
        )
        assert predictions.run["test_time_augmentation"] == {"views": views}
        found[views] = printed["nll"]
    assert found["none"] != found["flip"]
