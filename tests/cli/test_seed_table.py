"""The table: planned for the weights at hand, trained within a budget, continued."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from product_mil.cli import seed_table
from product_mil.runs.opening import open_run
from product_mil.seed_table.plan import TableOptions, plan
from product_mil.sources.sample.draw import SampleFiles


def planned_with(**changed: Any) -> tuple[Any, list[str]]:
    return plan(TableOptions(output=Path("unused"), **changed))


def test_the_packaged_net_takes_the_place_of_what_is_not_at_hand() -> None:
    planned, left_out = planned_with()
    assert left_out == []
    names = [system.name for system in planned]
    assert names[:5] == ["prior", "tree", "cnn_1", "cnn_2", "cnn_3"]
    assert names[5:] == ["efficientnet_lite0", "efficientnet_lite0-joint"]
    averaged, joint = planned[5:]
    assert averaged.note == "in place of inception_v3 and xception, whose weights are not at hand"
    assert (averaged.share, joint.share) == (8.0, 8.0)
    poolings = [system.config.model.pooling for system in (averaged, joint)]
    assert poolings == ["probabilities", "posterior_attention"]
    for system in (averaged, joint):
        assert system.config.model.backbone == "efficientnet_lite0"
        assert system.config.model.weights == "imagenet"
        assert system.config.finetune.trainable == "blocks/14"


def test_without_the_package_the_pretrained_systems_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "product_mil.model.weights.published.importlib.util.find_spec", lambda _: None
    )
    planned, left_out = planned_with()
    assert [system.name for system in planned] == ["prior", "tree", "cnn_1", "cnn_2", "cnn_3"]
    assert len(left_out) == 4
    assert (
        "inception_v3-joint: no weights of inception_v3 at hand, nor of efficientnet_lite0"
        in left_out[1]
    )


@pytest.mark.slow
def test_a_named_mobilenet_takes_the_place_of_what_is_missing_once(tmp_path: Path) -> None:
    weights = tmp_path / "mobilenet.h5"
    weights.touch()
    planned, left_out = planned_with(weights=[f"mobilenet_v2={weights}"])
    assert left_out == []
    by_name = {system.name: system for system in planned}
    assert list(by_name)[-2:] == ["mobilenet_v2", "mobilenet_v2-joint"]
    joint = by_name["mobilenet_v2-joint"]
    assert joint.note == (
        "in place of inception_v3-joint and xception-joint, whose weights are not at hand"
    )
    assert joint.config.model.backbone == "mobilenet_v2"
    assert joint.config.model.weights == str(weights)
    assert joint.config.model.pooling == "posterior_attention"
    assert by_name["mobilenet_v2"].config.model.pooling == "probabilities"
    assert joint.config.finetune.trainable == "blocks/14"
    # With weights of its own a net stands for itself.
    both = [f"mobilenet_v2={weights}", f"xception={weights}"]
    planned, _ = planned_with(weights=both, systems=["xception", "inception_v3"])
    names = {system.name: system for system in planned}
    assert list(names) == ["mobilenet_v2", "xception"]
    assert names["xception"].note == ""
    assert names["xception"].config.finetune.trainable == "blocks/11"
    assert names["mobilenet_v2"].note == "in place of inception_v3, whose weights are not at hand"


@pytest.mark.slow
def test_the_table_within_a_budget_and_gone_on_with(
    sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def table(budget_minutes: float) -> dict[str, dict[str, str]]:
        seed_table.main(
            [
                "--output", str(tmp_path), "--budget_minutes", str(budget_minutes),
                "--data", str(sample.train), "--categories", str(sample.categories),
                "--config.data.image_size_px=48", "--rungs", "prior", "cnn_1",
            ]
        )  # fmt: skip
        with (tmp_path / "seed_table.csv").open(encoding="utf-8") as file:
            return {row["system"]: row for row in csv.DictReader(file)}

    rows = table(0.01)  # no time for anything: a single step, which is the shortest schedule
    assert list(rows) == ["prior", "cnn_1"]
    assert rows["prior"]["cut_short"] == "False"
    run = open_run(tmp_path / "runs" / "cnn_1")
    assert run.step == 1
    whole = json.loads((tmp_path / "runs" / "cnn_1.json").read_text())["cost"]["stages"]
    num_steps = whole["finetune"]["num_steps"]
    assert rows["cnn_1"]["cut_short"] == "False"  # the deadline passed, but nothing was left to do
    assert rows["cnn_1"]["shortened"] == f"1 of {num_steps} steps"
    assert int(rows["cnn_1"]["parameters"]) == run.record["parameters"]
    assert float(rows["cnn_1"]["images_per_s"]) > 0
    last = (tmp_path / "runs" / "prior" / "metrics.jsonl").read_text().splitlines()[-1]
    assert float(rows["prior"]["top1"]) == json.loads(last)["valid/top1"]
    assert (tmp_path / "seed_table.png").stat().st_size > 5000
    assert f"shortened to 1 of {num_steps} steps" in capsys.readouterr().out

    again = table(60)
    assert (again["cnn_1"]["cut_short"], again["cnn_1"]["shortened"]) == ("False", "")
    assert open_run(tmp_path / "runs" / "cnn_1").step == num_steps
    assert open_run(tmp_path / "runs" / "cnn_1-shortened").step == 1
    assert again["prior"] == rows["prior"]  # not trained again


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rungs", "cnn_4"], "there is no such system"),
        (["--weights", "xception"], "expected BACKBONE=FILE"),
        (["--budget_minutes", "0"], "must be above 0"),
        (["--budget"], "unknown argument"),
        (["--budget_minutes", "nan"], "must be above 0"),
        (["--test", "nowhere.bson"], "nowhere.bson: no such file"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        seed_table.main(["--output", str(tmp_path / "out"), *flags])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
