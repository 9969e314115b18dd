"""Predicting and measuring as functions: values are returned, and nothing is printed."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest

from product_mil.compare.gather.evaluate import evaluate_file
from product_mil.errors import UserError
from product_mil.inference.files import read_predictions
from product_mil.inference.outputs import Outputs
from product_mil.runs.evaluate import evaluate
from product_mil.runs.predict import predict
from product_mil.runs.trained import open_run
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
    assert "that are fitted on" in fitted
    assert known.startswith(f"note: no test: {trained} was trained on ")
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


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named for two outputs"):
        Outputs(tmp_path / "a.csv", tmp_path / "a.csv").files()
    assert not Outputs(tmp_path / "a.csv").need_all
    assert Outputs(tmp_path / "a.csv", min_confidence=0.0).need_all
