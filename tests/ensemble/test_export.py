"""Ensembles as functions: runs and their files give the same, and nothing is printed."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from product_mil.config import DataConfig, load_config
from product_mil.ensemble.export import combine_predictions, combine_runs
from product_mil.errors import UserError
from product_mil.inference.outputs import Outputs
from product_mil.runs.opening import open_run
from product_mil.runs.predict import predict
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT


def test_runs_and_their_files(
    trained: Path, sample: SampleFiles, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "product_mil")
    spec = str(sample.train)
    runs, files = Outputs(tmp_path / "runs.csv"), Outputs(tmp_path / "files.csv")
    weights = np.array([0.25, 0.75])
    of_runs = combine_runs([trained, trained], spec, runs, rule="vote", weights=weights)
    matrix = tmp_path / "matrix"
    predict(open_run(trained), spec, Outputs(tmp_path / "s.csv", matrix=matrix))
    of_files = combine_predictions(
        [matrix, matrix], files, rule="vote", fit_paths=[matrix, matrix], fit_on=spec
    )
    np.testing.assert_array_equal(of_runs.weights, weights)
    assert of_files.weights.sum() == pytest.approx(1)
    for found in (of_runs, of_files):
        assert found.written.num_products == 120
        assert found.written.levels is None
    # A model agrees with itself, whatever its weights.
    answers = [path.read_text() for path in (runs.submission, files.submission)]
    assert answers[0] == answers[1] == (tmp_path / "s.csv").read_text()
    messages = caplog.messages
    assert messages[0] == messages[1] == open_run(trained).summary
    notes = messages[2:5]  # of both members, and of the run alone
    assert all(note.startswith(f"note: {trained} was trained on 96 ") for note in notes)
    assert messages[5].startswith("weights fitted on 120 validation products:\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("prior_first", [True, False])
def test_a_run_that_looks_at_no_image(
    trained: Path, sample: SampleFiles, tmp_path: Path, prior_first: bool
) -> None:
    """It takes part beside a net of another image size; without weight it changes nothing."""
    data = DataConfig(train=str(sample.train), categories=str(sample.categories))
    config = dataclasses.replace(load_config(str(ROOT / "configs/prior.py")), data=data)
    run(config, tmp_path / "prior")
    runs, weights = [tmp_path / "prior", trained], [0.0, 1.0]
    if not prior_first:
        runs, weights = runs[::-1], weights[::-1]
    outputs = Outputs(tmp_path / "both.csv")
    combine_runs(runs, str(sample.train), outputs, weights=np.array(weights))
    predict(open_run(trained), str(sample.train), Outputs(tmp_path / "one.csv"))
    assert outputs.submission.read_text() == (tmp_path / "one.csv").read_text()


def test_what_cannot_be_combined_is_refused_before_work(
    trained: Path, sample: SampleFiles, tmp_path: Path
) -> None:
    spec, outputs = str(sample.train), Outputs(tmp_path / "s.csv")
    predict(open_run(trained), spec, Outputs(tmp_path / "one.csv", tmp_path / "one.parquet"))
    members = [tmp_path / "one.parquet"] * 2
    surer = Outputs(tmp_path / "s.csv", min_confidence=0.9)
    equal = np.array([2.0, 2.0])
    for part, combined in {
        "3 for 2 members": lambda: combine_predictions(members, outputs, weights=np.ones(3)),
        "nor all 0": lambda: combine_runs([trained] * 2, spec, outputs, weights=np.zeros(2)),
        "name --fit_predictions": lambda: combine_predictions(members, outputs),
        "validation predictions": lambda: combine_predictions(members, surer, weights=equal),
        "topk=0": lambda: Outputs(tmp_path / "s.csv", topk=0),
        "is the data itself": lambda: combine_runs([trained] * 2, spec, Outputs(sample.train)),
    }.items():
        with pytest.raises(UserError, match=part):
            combined()
    assert not (tmp_path / "s.csv").exists()
    found = combine_predictions(members, outputs, weights=equal)
    np.testing.assert_array_equal(found.weights, [0.5, 0.5])
