import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest

from product_mil.compare.gather import sources
from product_mil.compare.training.side_by_side import num_at_once
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool

ROOT = Path(__file__).resolve().parents[2]


def compared(output: Path) -> dict[str, Any]:
    return json.loads((output / "comparison.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def averaged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An averaging run on the data of `trained`, with fewer epochs, which has to be reported."""
    from product_mil.config import config_from_dict
    from product_mil.runs.run import run

    config = config_from_dict(json.loads((trained / "config.json").read_text(encoding="utf-8")))
    workdir = tmp_path_factory.mktemp("averaged")
    model = replace(config.model, pooling="probabilities")
    run(replace(config, model=model, finetune=replace(config.finetune, epochs=1)), workdir)
    return workdir


@pytest.fixture(scope="module")
def labelled(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 products of the sample under new ids; two are not labelled, and one id recurs."""
    records = bson.decode_all(sample.train.read_bytes())[:60]
    for place, record in enumerate(records):
        record["_id"] = 10_000 - 7 * place
    del records[3]["category_id"]
    records[4]["category_id"] = 5
    records[5]["imgs"] = [{"picture": b"no JPEG"}]
    # The first record of an id counts: this one would lie in the middle.
    records.insert(20, records[10] | {"imgs": records[30]["imgs"], "category_id": 5})
    path = tmp_path_factory.mktemp("labelled") / "labelled.bson"
    path.write_bytes(b"".join(bson.encode(record) for record in records))
    return path


@pytest.fixture(scope="module")
def output(
    trained: Path, averaged: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("compared") / "new"
    runs = (f"joint={trained}", f"averaged={averaged}")
    call_tool("compare", "--runs", *runs, "--data", labelled, "--output", output)
    return output


def test_runs(
    output: Path,
    trained: Path,
    averaged: Path,
    labelled: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The metrics are those of tools/evaluate.py, which computes them its own way."""
    found = compared(output)
    assert found["n"] == 58
    for name, workdir in (("joint", trained), ("averaged", averaged)):
        capsys.readouterr()
        call_tool("evaluate", "--workdir", workdir, "--data", labelled, "--json")
        expected = json.loads(capsys.readouterr().out)
        run = found["runs"][name]
        assert [run[k] for k in ("accuracy", "top5", "nll", "calibration_error")] == pytest.approx(
            [expected[k] for k in ("top1", "top5", "nll", "calibration_error")], abs=1e-5
        )
        assert {k: v["accuracy"] for k, v in run["by_num_images"].items()} == pytest.approx(
            {k[-1]: v for k, v in expected.items() if k.startswith("top1_images_")}
        )
        assert run["temperature"] > 0
        assert run["calibrated_nll"] != run["nll"]
    difference = found["difference"]["joint_minus_averaged"]
    a, b = (found["runs"][name]["accuracy"] for name in ("joint", "averaged"))
    assert difference["value"] == pytest.approx(a - b)
    assert difference["value"] * 58 == pytest.approx(difference["fixed"] - difference["broke"])
    # All these photos were trained on or validated on; only those trained on count as shared.
    shared = {k: v["n"] for k, v in difference["by_shared_image"].items()}
    assert sum(shared.values()) == 58
    assert shared["shares_an_image_with_training"] > 30
    assert found["differing_fields"] == {
        "finetune.epochs": {"joint": 2, "averaged": 1},
        "model.pooling": {"joint": "gated_attention", "averaged": "probabilities"},
    }
    assert found["like_for_like"] is False
    assert any("not like for like" in note for note in found["notes"])
    assert found["control"]["n"] == difference["by_num_images"]["1"]["n"]
    assert "1 products have no category: left out" in found["notes"]
    assert any(note.startswith("1 products are not among") for note in found["notes"])
    assert {path.suffix for path in output.iterdir()} == {".json", ".html", ".png"}


def test_rules(output: Path) -> None:
    """On products with one photo every rule is the same; each has its pairs."""
    found = compared(output)
    names = [f"averaged/{rule}" for rule in ("geometric_mean", "maximum", "vote", "first_image")]
    assert list(found["rules"]) == names
    own = found["runs"]["averaged"]["by_num_images"]["1"]["accuracy"]
    for name in names:
        assert found["rules"][name]["by_num_images"]["1"]["accuracy"] == own
        assert found["difference"][f"{name}_minus_averaged"]["by_num_images"]["1"]["value"] == 0
        assert f"joint_minus_{name}" in found["difference"]
    assert "nll" not in found["rules"]["averaged/vote"]
    assert len(found["difference"]) == 15  # of 6, each with each other once


def test_what_to_believe(output: Path) -> None:
    """One line, in the file and at the top of the page, that says that this is no test."""
    said = compared(output)["verdict"]
    assert "1 seed, 58 products" in said
    assert said.endswith(
        "the runs differ in more than the pooling; but this is no test: a run has seen some of "
        "these products."
    )
    assert f'<p class="verdict">{said}</p>' in (output / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_reference(
    trained: Path, averaged: Path, labelled: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A rule is one too. Images that the data share with training are looked for once a set."""
    looked: list[object] = []
    search = sources.shown_by
    monkeypatch.setattr(sources, "shown_by", lambda *args: looked.append(args) or search(*args))
    runs = (f"joint={trained},{trained}", f"averaged={averaged}")
    call_tool(
        "compare", "--runs", *runs, "--data", labelled, "--output", tmp_path,
        "--reference", "averaged/vote",
    )  # fmt: skip
    assert len(looked) == 1  # of three runs with the same training products
    found = compared(tmp_path)
    assert found["headline"] == ["joint", "averaged/vote"]
    assert sum(pair.endswith("_minus_averaged/vote") for pair in found["difference"]) == 5
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<title>joint or averaged/vote? 58 products answered by both</title>" in text
    said = capsys.readouterr().out.splitlines()
    rows = [line for line in said if line.startswith("averaged/vote ")]
    assert len(rows) == 2  # of all products, and by number of images
    assert "reference" in rows[0]
    assert found["verdict"] in said
    assert said[-1].endswith("it and comparison.json have all 15 pairs")
    match = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    for card in json.loads(match[1])["cards"]:  # of a rule its own guess, not that of its run
        assert len(card["runs"]["averaged/vote"]["top"]) == 1
        right = card["runs"]["averaged/vote"]["top"][0][0] == card["true"]
        assert right == (card["kind"] == "broke")


def test_page(output: Path) -> None:
    found = compared(output)
    text = (output / "index.html").read_text(encoding="utf-8")
    assert "what an image adds to the logit of the category that joint chooses" in text
    match = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    gallery = json.loads(match[1])
    difference = found["difference"]["joint_minus_averaged"]
    assert len(gallery["cards"]) == difference["fixed"] + difference["broke"]
    for card in gallery["cards"]:
        right = {
            name: str(run["top"][0][0]) == str(card["true"]) for name, run in card["runs"].items()
        }
        assert right == {"joint": card["kind"] == "fixed", "averaged": card["kind"] == "broke"}
        attention = card["runs"]["joint"]["attention"].values()
        assert not attention or sum(attention) == pytest.approx(1, abs=0.01)
        assert card["runs"]["joint"]["adds"].keys() == card["runs"]["joint"]["attention"].keys()
        assert card["runs"]["averaged"]["adds"] == {}  # its logits are no sum over images
        assert len(card["pictures"]) == card["images"]
        assert len(card["runs"]["joint"]["top"]) == 5


@pytest.mark.slow
def test_copies(trained: Path, labelled: Path, tmp_path: Path) -> None:
    runs = (f"a={trained}", f"b={trained}")
    call_tool("compare", "--runs", *runs, "--data", labelled, "--output", tmp_path)
    found = compared(tmp_path)["difference"]["a_minus_b"]
    assert (found["value"], found["ci95"], found["mcnemar_p"]) == (0, [0, 0], 1)


@pytest.mark.slow
def test_prediction_files(
    output: Path, trained: Path, averaged: Path, labelled: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each kind of file gives the same figures as the runs, as far as it goes."""
    for name, workdir in (("joint", trained), ("averaged", averaged)):
        call_tool(
            "export_predictions", "--workdir", workdir, "--data", labelled,
            "--output", tmp_path / f"{name}.csv.gz",
            "--probabilities", tmp_path / f"{name}.parquet",
            "--all_probabilities", tmp_path / name,
        )  # fmt: skip
    runs, keys = compared(output)["runs"], ("accuracy", "top5", "nll", "calibration_error")

    parquet = [f"{name}={tmp_path / name}.parquet" for name in ("joint", "averaged")]
    call_tool("compare", "--predictions", *parquet, "--output", tmp_path / "p")
    said = capsys.readouterr().out
    assert "no temperature and other rules" in said
    for name in ("joint", "averaged"):
        found = compared(tmp_path / "p")["runs"][name]
        assert [found[k] for k in keys] == pytest.approx([runs[name][k] for k in keys], abs=1e-5)
        assert found["by_num_images"] == runs[name]["by_num_images"]
    text = (tmp_path / "p" / "index.html").read_text(encoding="utf-8")
    assert "Without --data there are no images to show" in text

    mixed = (f"joint={tmp_path / 'joint'}", f"averaged={tmp_path / 'averaged.csv.gz'}")
    call_tool("compare", "--predictions", *mixed, "--data", labelled, "--output", tmp_path / "m")
    found = compared(tmp_path / "m")["runs"]
    assert [found["joint"][k] for k in keys] == pytest.approx(
        [runs["joint"][k] for k in keys], abs=1e-5
    )
    assert found["averaged"]["accuracy"] == runs["averaged"]["accuracy"]
    assert "nll" not in found["averaged"]

    # Matched by id: another order, and two rows fewer.
    header, *rows = gzip.decompress((tmp_path / "joint.csv.gz").read_bytes()).decode().splitlines()
    kept = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[:-2]]
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    pair = (f"a={shuffled}", f"b={tmp_path / 'joint.parquet'}")
    call_tool("compare", "--predictions", *pair, "--data", labelled, "--output", tmp_path / "s")
    found = compared(tmp_path / "s")
    assert 56 <= found["n"] < 58
    assert found["difference"]["a_minus_b"]["value"] == 0
    assert found["runs"]["a"]["accuracy"] == found["runs"]["b"]["accuracy"]


def test_names_that_look_like_pairs(labelled: Path, tmp_path: Path) -> None:
    """Three submissions: one right, one wrong, one half right."""
    records = [r for r in bson.decode_all(labelled.read_bytes()) if r.get("category_id", 5) != 5]
    true = {record["_id"]: record["category_id"] for record in records}
    wrong = dict.fromkeys(true, 1)
    half = {key: value if key % 2 else 1 for key, value in true.items()}
    files = []
    for name, guesses in (("a_minus_b", true), ("a", wrong), ("b_minus_a", half)):
        path = tmp_path / f"{name}.csv"
        lines = ["_id,category_id", *(f"{key},{guess}" for key, guess in guesses.items())]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files.append(f"{name}={path}")
    output = tmp_path / "o"
    call_tool("compare", "--predictions", *files, "--data", labelled, "--output", output)
    found = compared(output)
    assert found["headline"] == ["a_minus_b", "b_minus_a"]
    accuracy = {name: run["accuracy"] for name, run in found["runs"].items()}
    assert accuracy == {"a_minus_b": 1, "a": 0, "b_minus_a": pytest.approx(0.5, abs=0.1)}
    differences = {(one["a"], one["b"]): one["value"] for one in found["difference"].values()}
    assert differences == {
        pair: pytest.approx(accuracy[pair[0]] - accuracy[pair[1]])
        for pair in (("a_minus_b", "a"), ("a_minus_b", "b_minus_a"), ("a", "b_minus_a"))
    }


def test_refusals(
    trained: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, data = ("--runs", f"a={trained}", f"b={trained}"), ("--data", labelled)
    out = ("--output", tmp_path / "o")
    config = ROOT / "configs" / "joint.py"
    (tmp_path / "x.csv").write_text("id,label\n", encoding="utf-8")
    (tmp_path / "y.csv").write_text("_id,category_id\n1,2\n", encoding="utf-8")
    unlabelled = tmp_path / "u.bson"
    unlabelled.write_bytes(bson.encode({"_id": 1, "imgs": []}))
    for args, expected in (
        ((*out,), "needs two names"),
        (("--runs", f"a={trained}", *data, *out), "needs two names"),
        ((*runs, *out), "give --data"),
        ((*runs, *data, "--output", labelled), "is the data itself; choose another output"),
        ((*runs, *data, "--output", trained / "config.json"), "belongs to the run in"),
        (("--runs", f"a={trained}", "b=no-such", *data, *out), "no such file or directory"),
        (("--runs", str(trained), f"b={trained}", *data, *out), "expected name=PATH"),
        (
            (
                "--predictions",
                f"a={tmp_path / 'y.csv'}",
                f"b={tmp_path / 'y.csv'}",
                "--data",
                unlabelled,
                *out,
            ),
            "no labelled product in common",
        ),
        ((*runs, *data, *out, "--nonsense"), "unknown argument"),
        (
            ("--runs", f"a={trained}", f"b={labelled}", *data, *out),
            f"--runs b={labelled}: it is no run's directory, but a file",
        ),
        ((*runs, *data, *out, "--reference", "c"), "no such variant or rule; there are a, b"),
        ((*runs, *data, *out, "--reference", "a/vote"), "no such variant or rule; there are a, b"),
        (
            (*runs, "--predictions", f"a={tmp_path / 'y.csv'}", *data, *out),
            "a is named twice; give two names",
        ),
        ((*runs, *data, *out, "--train"), "go together"),
        (
            ("--predictions", f"a={tmp_path / 'x.csv'}", f"b={tmp_path / 'x.csv'}", *data, *out),
            "is no prediction file",
        ),
        (
            ("--train", "--configs", f"a={config}:smoke", f"b={config}:laptop", *data, *out),
            "cannot be compared fairly",
        ),
        (
            (
                "--train",
                "--configs",
                f"a={config}",
                f"b={ROOT / 'configs/averaged.py'}",
                *data,
                *out,
                "--config.model.position_embedding=true",
            ),
            "--configs b: config.model.position_embedding=True: probabilities has no such setting",
        ),
    ):
        with pytest.raises(SystemExit) as left:
            call_tool("compare", *args)
        message = capsys.readouterr().err
        assert left.value.code == 2, message
        assert expected in message
        assert message.startswith("error: ")
        assert message.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_train(
    sample: SampleFiles, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both variants from two seeds each, compared; the same command again trains nothing."""
    args = (
        "--train", "--seeds", 2, "--data", labelled, "--output", tmp_path,
        "--configs", f"joint={ROOT / 'configs/joint.py'}:smoke,model.pooling=mean",
        f"averaged={ROOT / 'configs/averaged.py'}:smoke",
        f"--config.data.train={sample.train}", f"--config.data.categories={sample.categories}",
        "--config.data.image_size_px=32", "--config.head.epochs=1", "--config.finetune.epochs=1",
    )  # fmt: skip
    call_tool("compare", *args)
    first = compared(tmp_path)
    for name in ("joint", "averaged"):
        run = first["runs"][name]
        assert run["seeds"] == 2
        assert np.mean(run["between_seeds"]["accuracy"]["values"]) == pytest.approx(run["accuracy"])
        for seed in (0, 1):
            text = (tmp_path / "runs" / f"{name}-{seed}" / "config.json").read_text()
            assert json.loads(text)["seed"] == seed
    assert first["differing_fields"] == {
        "model.pooling": {"joint": "mean", "averaged": "probabilities"}
    }
    capsys.readouterr()
    call_tool("compare", *args)
    assert compared(tmp_path)["runs"] == first["runs"]


@pytest.mark.slow
def test_heads_are_trained_side_by_side(
    sample: SampleFiles, labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A head for each variant; the reference is known before they are trained."""
    if num_at_once(2) < 2:
        pytest.skip("needs two cores and memory for two runs")
    args = (
        "--train", "--data", labelled, "--output", tmp_path / "o",
        "--configs", f"joint={ROOT / 'configs/joint.py'}:smoke,model.pooling=mean",
        f"averaged={ROOT / 'configs/averaged.py'}:smoke",
        f"--config.data.train={sample.train}", f"--config.data.categories={sample.categories}",
        "--config.data.image_size_px=32", "--config.head.epochs=1", "--config.finetune.epochs=0",
    )  # fmt: skip
    with pytest.raises(SystemExit):
        call_tool("compare", *args, "--reference", "joint/vote")
    assert "there are joint, averaged, averaged/geometric_mean" in capfd.readouterr().err
    assert not (tmp_path / "o").exists()
    call_tool("compare", *args, "--reference", "averaged/vote")
    said = capfd.readouterr().out
    assert "2 runs, 2 at a time" in said
    assert "is trained: 2 of 2 runs" in said
    assert compared(tmp_path / "o")["headline"] == ["joint", "averaged/vote"]
