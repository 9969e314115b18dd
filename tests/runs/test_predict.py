"""Predicting and measuring as functions: values are returned, and nothing is printed."""

import csv
import logging
from pathlib import Path

import bson
import numpy as np
import pytest

import product_mil
from product_mil.compare.gather.evaluate import evaluate_file
from product_mil.data.faults import FAULTS, faults_path
from product_mil.errors import UserError
from product_mil.inference.backoff import calibrate
from product_mil.inference.outputs import Outputs
from product_mil.inference.stream import predict_products
from product_mil.inference.top_classes import read_predictions
from product_mil.runs.evaluate import evaluate
from product_mil.runs.opening import open_run
from product_mil.runs.predict import predict
from product_mil.sources.sample.draw import SampleFiles


def test_predict_and_evaluate(
    trained: Path, sample: SampleFiles, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "product_mil")
    run, spec = open_run(trained), str(sample.train)
    outputs = Outputs(tmp_path / "s.csv", tmp_path / "top.parquet", topk=3, min_confidence=0.1)
    written = predict(run, spec, outputs, fit_on=spec)
    assert (written.num_products, written.remarks) == (120, [])
    assert written.levels is not None
    assert written.levels.products.sum() == 120
    with outputs.levels.open() as file:
        levels = [int(row["level"]) for row in csv.DictReader(file)]
    assert np.bincount(levels, minlength=4).tolist() == written.levels.products.tolist()
    assert len(set(levels)) > 1
    fitted, known, expected = caplog.messages
    assert "products used for fitting" in fitted
    assert known.startswith(f"note: {trained} was trained on ")
    assert "products to be predicted, so" in known
    assert expected.startswith("120 validation products, at least 0.1 sure at temperature ")

    measured = evaluate(run, spec)
    assert outputs.top_classes is not None
    of_file = evaluate_file(outputs.top_classes, spec)
    for name in ("top1", "nll", "error_tree_distance"):
        assert of_file.metrics[name] == pytest.approx(measured.metrics[name], abs=1e-4)
    assert measured.known is not None
    assert measured.known.trained > 0
    top = read_predictions(outputs.top_classes)
    assert measured.metrics["nll"] == pytest.approx(-top.column("log_prob_true").mean(), abs=1e-4)
    assert capfd.readouterr() == ("", "")


def test_a_run_is_calibrated_once(
    trained: Path, sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored temperature is the one that the run's own validation products ask for."""
    run, spec = open_run(trained), str(sample.train)
    data, _ = run.data()
    assert data is not None
    valid = data.valid.subset(data.valid.num_images > 0)
    step = run.predict_step(topk=1, keep_all=True)
    predicted = predict_products(valid, run.batches(valid, 16), step, run.mesh)
    wanted = calibrate((block for block, _ in predicted), run.categories).temperature
    assert run.temperature == pytest.approx(wanted, rel=2e-3)
    assert abs(wanted - 1) > 0.05  # else the test could not fail

    fitted = Outputs(tmp_path / "fitted.csv", min_confidence=0.1)
    predict(run, spec, fitted, fit_on=spec)
    monkeypatch.setattr("product_mil.runs.predict.validation_products", None)  # nor needed any more
    outputs = Outputs(tmp_path / "stored.csv", min_confidence=0.1)
    predict(run, spec, outputs)
    assert outputs.levels.read_text() != fitted.levels.read_text()
    sure = product_mil.load(trained).predict(images_in(spec), min_confidence=0.1)
    with outputs.levels.open() as file:
        for row, prediction in zip(csv.DictReader(file), sure, strict=True):
            answer = prediction.sure
            assert answer is not None
            assert (str(answer.level), str(answer.category_id or "")) == (
                row["level"], row["category_id"],
            )  # fmt: skip
            names = [row[f"category_level{level}"] for level in (1, 2, 3)]
            assert answer.names == tuple(dict.fromkeys(filter(None, names)))
            assert answer.probability == pytest.approx(float(row["probability"]), abs=2e-6)


def test_products_without_a_readable_image_are_counted_and_the_first_named(
    trained: Path, sample: SampleFiles, tmp_path: Path
) -> None:
    records = bson.decode_all(sample.train.read_bytes())[:9]
    for record in records[2:7]:
        record["imgs"] = []
    data = tmp_path / "a.bson"
    data.write_bytes(b"".join(map(bson.encode, records)))
    run, outputs = open_run(trained), Outputs(tmp_path / "s.csv")
    written = predict(run, str(data), outputs)
    first = [record["_id"] for record in records[2:5]]
    assert (written.num_imageless, list(written.first_imageless)) == (5, first)
    guess = run.categories.ids[run.log_prior.argmax()]
    assert written.remarks[0] == (
        f"5 products have no readable image ({first[0]}, {first[1]}, {first[2]}, ...): predicted "
        f"as {guess}; {tmp_path / 's.csv.bad_records.csv'} says why"
    )


def images_in(spec: str) -> list[list[bytes]]:
    records = bson.decode_all(Path(spec).read_bytes())
    return [[image["picture"] for image in record["imgs"]] for record in records]


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named for two outputs"):
        Outputs(tmp_path / "a.csv", tmp_path / "a.csv").files()
    faults = faults_path(tmp_path / "a.csv")  # which is written only if there are any
    with pytest.raises(UserError, match=r"a\.csv\.bad_records\.csv is named for two outputs"):
        Outputs(tmp_path / "a.csv", faults).check(None, {faults: FAULTS})
    assert not Outputs(tmp_path / "a.csv").need_all
    assert Outputs(tmp_path / "a.csv", min_confidence=0.0).need_all
