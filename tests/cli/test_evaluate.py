import json
from pathlib import Path

import bson
import numpy as np
import pytest

from product_mil.inference.top_classes import read_predictions
from product_mil.sources.categories import Categories
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool


@pytest.fixture
def labelled(sample: SampleFiles, tmp_path: Path) -> Path:
    """With a product of unknown category, one of none, one bad image and one without images."""
    records = bson.decode_all(sample.train.read_bytes())
    records[0]["category_id"] = 5
    del records[1]["category_id"]
    records[2]["imgs"][0] = {"picture": b"no JPEG"}
    records[3]["imgs"] = []
    path = tmp_path / "labelled.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    return path


def test_equals_the_exported_predictions(
    trained: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_tool("evaluate", "--workdir", trained, "--data", labelled, "--json")
    metrics = json.loads(capsys.readouterr().out)
    assert metrics.pop("remarks")[0] == "2 products of unknown category: not scored"

    parquet = tmp_path / "p.parquet"
    call_tool(
        "export_predictions", "--workdir", trained, "--data", labelled, "--output",
        tmp_path / "s.csv", "--probabilities", parquet, "--images_per_batch", 24,
    )  # fmt: skip
    found = read_predictions(parquet)
    categories = Categories.from_json(found.categories_json)
    known = ~np.isnan(found.column("log_prob_true"))
    true = np.nan_to_num(found.column("category_id"))[known].astype(np.int64)
    top = found.column("top_category_id")[known]
    names = dict(zip(categories.ids.tolist(), categories.names, strict=True))

    def same_to_level(level: int) -> float:
        pairs = zip(top[:, 0].tolist(), true.tolist(), strict=True)
        return float(np.mean([names[a][:level] == names[b][:level] for a, b in pairs]))

    correct = top[:, 0] == true
    num_images = found.column("num_images")[known]
    confidence = found.column("top_probability")[known][:, 0].astype(np.float64)
    bins = [
        abs((confidence[chosen] - correct[chosen]).sum())
        for b in range(15)
        if (chosen := (confidence * 15).astype(int) == b).any()
    ]
    expected = {
        "products": 118,
        "top1": correct.mean(),
        "top5": (top[:, :5] == true[:, None]).any(1).mean(),
        "nll": -found.column("log_prob_true")[known].mean(),
        "calibration_error": sum(bins) / len(correct),
        "top1_level_1": same_to_level(1),
        "top1_level_2": same_to_level(2),
        "top1_level_3": correct.mean(),
        "top1_several_images": correct[num_images > 1].mean(),
        "mean_class_accuracy": np.mean([correct[true == c].mean() for c in np.unique(true)]),
        "error_tree_distance": np.mean(
            [
                next(
                    up for up in range(1, 4) if up == 3 or names[a][: 3 - up] == names[b][: 3 - up]
                )
                for a, b in zip(top[:, 0].tolist(), true.tolist(), strict=True)
                if a != b
            ]
        ),
    }
    for count in range(5):
        expected[f"top1_images_{count}"] = correct[num_images == count].mean()
        expected[f"products_images_{count}"] = (num_images == count).sum()
    assert metrics == pytest.approx(expected, abs=1e-5)


def test_the_training_metrics_again(
    trained: Path, sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The validation part in a file of its own scores as it did in training."""
    from product_mil.data.split import split_products
    from product_mil.runs.opening import open_run

    products = open_run(trained).products(str(sample.train))
    rows = split_products(products.catalogue, valid_fraction=0.2, seed=0).valid_rows
    records = bson.decode_all(sample.train.read_bytes())
    path = tmp_path / "valid.bson"
    path.write_bytes(b"".join(bson.encode(records[row]) for row in rows))
    call_tool("evaluate", "--workdir", trained, "--data", path, "--json")
    metrics = json.loads(capsys.readouterr().out)
    last = json.loads((trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    trained_metrics = {k[6:]: v for k, v in last.items() if k.startswith("valid/")}
    del trained_metrics["temperature"]  # is fitted in training alone
    assert {k: metrics[k] for k in trained_metrics} == pytest.approx(trained_metrics, abs=1e-5)


def test_table(trained: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_tool("evaluate", "--workdir", trained, "--data", labelled, "--checkpoint", "best")
    said = capsys.readouterr().out
    assert "gated_attention over small_cnn" in said
    assert "  products                   118\n" in said
    assert "2 products of unknown category: not scored" in said
    assert "1 images could not be read, the first of product " in said
    assert ", byte " in said


def test_a_submission_of_other_categories_is_remarked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, submission = tmp_path / "labelled.bson", tmp_path / "submission.csv"
    records = [{"_id": number, "category_id": 1000 + number, "imgs": []} for number in range(3)]
    data.write_bytes(b"".join(map(bson.encode, records)))
    for categories, remarked in (("7 8 9", True), ("7 1001 9", False)):
        rows = [f"{number},{guess}" for number, guess in enumerate(categories.split())]
        submission.write_text("\n".join(["_id,category_id", *rows, ""]))
        call_tool("evaluate", "--predictions", submission, "--data", data)
        said = capsys.readouterr().out
        assert ("check that their ids are the same" in said) == remarked


def test_refusals(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "unlabelled.bson"
    path.write_bytes(bson.encode({"_id": 1, "imgs": []}))
    named = tmp_path / "named.bson"
    named.write_bytes(bson.encode({"_id": 1, "category_id": b"shoes", "imgs": []}))
    for args, expected in (
        (("--workdir", trained, "--data", named), "is not usable: it is binary data; a cat"),
        (("--workdir", trained, "--data", path), "none of its 1 products has a category of"),
        (("--workdir", tmp_path / "no", "--data", path), "no such directory"),
        (("--workdir", trained, "--data", tmp_path / "no.bson"), "no such file"),
        (("--workdir", trained, "--data", path, "--faults", tmp_path), "is a directory"),
        (("--workdir", trained, "--data", path, "--faults", tmp_path / "no/f"), "no directory"),
        (("--workdir", trained, "--data", path, "--logit_adjustment", "nan"), "must be finite"),
    ):
        with pytest.raises(SystemExit) as left:
            call_tool("evaluate", *args)
        assert left.value.code == 2
        assert expected in capsys.readouterr().err
