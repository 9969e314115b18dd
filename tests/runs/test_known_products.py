"""What a run has seen of some products: by id, and by identical images."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest

from product_mil.ensemble.export import combine_runs
from product_mil.inference.outputs import Outputs
from product_mil.runs.known_products import PRODUCTS_FILE, Known
from product_mil.runs.opening import open_run
from product_mil.runs.predict import predict
from product_mil.runs.trained import TrainedRun
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool


@pytest.fixture
def others(sample: SampleFiles, tmp_path: Path) -> Path:
    """Ten new ids; the first three show an image of the sample's first products."""
    records = bson.decode_all(sample.train.read_bytes())
    made = []
    for number in range(10):
        record: dict[str, Any] = dict(records[number]) | {"_id": 10_000 + number}
        image = record["imgs"][0]["picture"]
        if number >= 3:  # the same picture, other bytes
            image = image[:2] + b"\xff\xfe\x00\x06mine" + image[2:]
        made.append(bson.encode(record | {"imgs": [{"picture": image}]}))
    path = tmp_path / "others.bson"
    path.write_bytes(b"".join(made))
    return path


def trained_ids(trained: Path) -> tuple[set[int], set[int]]:
    with np.load(trained / PRODUCTS_FILE) as file:
        return set(file["trained"].tolist()), set(file["validated"].tolist())


def test_the_run_keeps_its_products(trained: Path, sample: SampleFiles) -> None:
    learned, chosen = trained_ids(trained)
    assert (len(learned), len(chosen)) == (96, 24)
    assert not learned & chosen
    assert learned | chosen == {r["_id"] for r in bson.decode_all(sample.train.read_bytes())}


def test_all_kinds(trained: Path, sample: SampleFiles, others: Path) -> None:
    run = open_run(trained)
    assert run.known(run.products(str(sample.train))) == Known(120, 96, 24, 0, 0)
    learned, _ = trained_ids(trained)
    first = [record["_id"] for record in bson.decode_all(sample.train.read_bytes())][:3]
    expected = sum(product_id in learned for product_id in first)
    assert expected > 0
    assert run.known(run.products(str(others))) == Known(10, 0, 0, 0, expected)


def test_ids_of_another_shop(trained: Path, sample: SampleFiles, tmp_path: Path) -> None:
    """The same ids with other images are other products, or the same in other files: it says so."""
    records = bson.decode_all(sample.train.read_bytes())
    for record in records:
        for image in record["imgs"]:
            picture = image["picture"]
            image["picture"] = picture[:2] + b"\xff\xfe\x00\x06mine" + picture[2:]
    records[3]["imgs"] = []  # nothing but its id identifies it
    path = tmp_path / "other.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    run = open_run(trained)
    known = run.known(run.products(str(path)))
    assert known is not None
    assert (known.trained + known.validated, known.same_id, known.same_image) == (1, 119, 0)


def test_without_the_list_or_the_data(
    trained: Path, sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(trained)
    products = run.products(str(sample.train))
    kept = (trained / PRODUCTS_FILE).read_bytes()
    try:
        for damage in (b"", kept[: len(kept) // 2], b"PK\x03\x04" + bytes(100)):
            (trained / PRODUCTS_FILE).write_bytes(damage)
            assert run.known(products) == Known(120, 96, 24, 0, 0)  # from the data
        monkeypatch.setattr("product_mil.runs.trained.run_data", lambda *_: (None, "gone"))
        assert run.known(products) is None
    finally:
        (trained / PRODUCTS_FILE).write_bytes(kept)
    assert run.known(products) == Known(120, 96, 24, None, None)


def test_an_export_says_so_in_one_line(
    trained: Path, sample: SampleFiles, others: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where no id is known, the data of the run are not read."""
    caplog.set_level(logging.INFO, "product_mil.runs.fitting")
    run, outputs = open_run(trained), Outputs(tmp_path / "s.csv")
    predict(run, str(sample.train), outputs)
    seen = f"{trained} was trained on 96 and chose its settings on 24 of the 120 products"
    assert caplog.messages == [
        f"note: {seen} to be predicted, so it is right more often here than on new products"
    ]
    caplog.clear()
    combine_runs([trained], str(sample.train), outputs, weights=np.ones(1))
    assert caplog.messages[0].startswith(f"note: {seen} to be predicted")
    caplog.clear()
    monkeypatch.setattr(TrainedRun, "data", None)
    predict(run, str(others), outputs)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (Known(9, 0, 0, 0, 0), "r has seen none of these 9 products in training"),
        (
            Known(9, 0, 0, 5, 0),
            "r has seen none of these 9 products in training; 5 have the id of one that it has "
            "seen, with other images: if they are the same products, this is no test",
        ),
        (Known(9, 4, 0, 0, 0), "r was trained on 4 of these 9 products: this is no test"),
        (
            Known(9, 4, 2, 0, 1),
            "r was trained on 4, chose its settings on 2 and was trained on an image of 1 of these "
            "9 products: this is no test",
        ),
        (
            Known(9, 0, 2, None, None),
            "r chose its settings on 2 of these 9 products, going by their ids alone (images were "
            "not compared): this is no test",
        ),
    ],
)
def test_sentences(known: Known, sentence: str) -> None:
    assert known.sentence("r") == sentence
    assert known.is_test == (": this is no test" not in sentence)


def said_by(capsys: pytest.CaptureFixture[str], tool: str, *args: object) -> str:
    call_tool(tool, *args)
    return capsys.readouterr().out


@pytest.mark.slow
def test_every_tool_says_so(
    trained: Path,
    sample: SampleFiles,
    others: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = f"{trained} was trained on 96 and chose its settings on 24 of"
    expected = f"{seen} these 120 products"
    good = ("--workdir", trained, "--data", sample.train)
    assert f"{expected}: this is no test\n" in said_by(capsys, "evaluate", *good)
    found: dict[str, Any] = json.loads(said_by(capsys, "evaluate", *good, "--json"))
    assert found["remarks"][-1] == f"{expected}: this is no test"
    table = said_by(capsys, "evaluate", "--workdir", trained, "--data", others)
    assert "this is no test" in table
    assert "was trained on an image of" in table

    output = ("--output", tmp_path / "s.csv")
    top = tmp_path / "top.parquet"
    said = said_by(
        capsys, "export_predictions", *good, *output, "--min_confidence", 0.5,
        "--fit_on", sample.train, "--probabilities", top,
    )  # fmt: skip
    assert f"note: {seen} the 120 products used for fitting, so it will seem" in said
    assert f"note: {seen} the 120 products to be predicted, so it is right more often here" in said

    by_id = expected.replace(str(trained), f"the run behind {top}") + ", going by their ids"
    assert by_id in said_by(capsys, "evaluate", "--predictions", top, "--data", sample.train)
    said = said_by(
        capsys, "compare", "--runs", f"a={trained}", "--predictions", f"b={top}",
        "--data", sample.train, "--output", tmp_path / "c",
    )  # fmt: skip
    for name in ("a", "b"):
        line = expected.replace(str(trained), name)
        assert f"note: {line}" in said
        page = (tmp_path / "c" / "index.html").read_text(encoding="utf-8")
        assert re.search(rf">{re.escape(line)}[^<]*: this is no test[.]<", page)
    assert "flattered" not in said
