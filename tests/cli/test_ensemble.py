"""Ensembles of runs and of files, end to end on tiny ones."""

import csv
import dataclasses
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pytest

from product_mil.compare.gather.files import read_answers
from product_mil.config import config_from_dict, load_config
from product_mil.data import decode as decoding
from product_mil.ensemble import files as member_files
from product_mil.ensemble.parquet import ParquetMember
from product_mil.ensemble.rules import fit_average
from product_mil.inference.matrix import MatrixWriter
from product_mil.inference.predictions import PredictionBlock, written_whole
from product_mil.inference.top_classes import ParquetWriter, read_predictions
from product_mil.sources.categories import Categories, categories_from_ids
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT, call_tool


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as left:
        call_tool("ensemble", *args)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


@pytest.fixture(scope="module")
def rival(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run on the same data: other photos' size, pooling and seed of the weights."""
    from product_mil.runs.run import run

    config = config_from_dict(json.loads((trained / "config.json").read_text(encoding="utf-8")))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size_px=32),
        model=dataclasses.replace(config.model, pooling="probabilities"),
        finetune=dataclasses.replace(config.finetune, epochs=1),
    )
    workdir = tmp_path_factory.mktemp("rival")
    run(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def few(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty products, one without images and one of no category."""
    records = bson.decode_all(sample.train.read_bytes())[:30]
    records[3]["imgs"] = []
    del records[7]["category_id"]
    path = tmp_path_factory.mktemp("few") / "few.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    return path


@pytest.fixture(scope="module")
def exported(trained: Path, rival: Path, few: Path) -> list[Path]:
    """Each run's own predictions: `name.parquet` with all classes, and the directory `name`."""
    places = []
    for name, workdir in (("trained", trained), ("rival", rival)):
        place = few.parent / name
        call_tool(
            "export_predictions", "--workdir", workdir, "--data", few, "--topk", 1000,
            "--output", f"{place}.csv", "--probabilities", f"{place}.parquet",
            "--all_probabilities", place,
        )  # fmt: skip
        places.append(place)
    return places


def matrix_of(place: Path) -> np.ndarray:
    return np.load(place / "probabilities.npy")


def test_runs_in_one_pass_equal_their_exports_combined(
    trained: Path, rival: Path, few: Path, exported: list[Path], tmp_path: Path
) -> None:
    """Two sizes and poolings; the mean by hand, a product without images included."""
    call_tool(
        "ensemble", "--runs", trained, rival, "--data", few, "--weights", "0.7,0.3",
        "--output", tmp_path / "s.csv", "--all_probabilities", tmp_path / "m",
        "--probabilities", tmp_path / "p.parquet", "--topk", 3,
    )  # fmt: skip
    first, second = map(matrix_of, exported)
    assert np.abs(first - second).max() > 0.01
    wanted = 0.7 * first + 0.3 * second
    np.testing.assert_allclose(matrix_of(tmp_path / "m"), wanted, atol=2e-6)
    found = read_predictions(tmp_path / "p.parquet")
    best = np.argsort(-matrix_of(tmp_path / "m"), 1, kind="stable")[:, :3]
    ids = np.load(tmp_path / "m" / "category_ids.npy")
    np.testing.assert_array_equal(found.column("top_category_id"), ids[best])
    alone = read_predictions(exported[0].with_suffix(".parquet"))
    for column in ("product_id", "num_images", "num_readable_images"):
        np.testing.assert_array_equal(found.column(column), alone.column(column))
    assert found.table["image_index"].to_pylist() == alone.table["image_index"].to_pylist()
    attention = found.table["image_attention"].to_pylist()
    for row, own in zip(attention, alone.table["image_attention"].to_pylist(), strict=True):
        even = np.full(len(own), 1 / max(len(own), 1))
        np.testing.assert_allclose(row, 0.7 * np.asarray(own) + 0.3 * even, atol=1e-5)
    assert found.run["ensemble"] == "average"
    assert found.run["weights"] == [0.7, 0.3]
    # What was written is what the other tools read.
    answers = read_answers(tmp_path / "p.parquet", None).answers
    np.testing.assert_array_equal(answers.guess, ids[best[:, 0]])


@pytest.mark.parametrize("rule", ["average", "geometric_mean", "vote"])
def test_files_in_any_order_and_kind(
    rule: str, few: Path, exported: list[Path], tmp_path: Path
) -> None:
    """A matrix with shuffled products and classes, and a Parquet file, as the two matrices."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.permutation(n) for n in matrix_of(exported[0]).shape)
    other = tmp_path / "shuffled"
    other.mkdir()
    shuffled = np.ascontiguousarray(matrix_of(exported[1])[rows][:, columns])
    np.save(other / "probabilities.npy", shuffled)
    np.save(other / "ids.npy", np.load(exported[1] / "ids.npy")[rows])
    np.save(other / "category_ids.npy", np.load(exported[1] / "category_ids.npy")[columns])
    (other / "about.json").write_bytes((exported[1] / "about.json").read_bytes())
    for name, members in (
        ("a", exported),
        ("b", [exported[0].with_suffix(".parquet"), other]),
        ("c", [exported[0], other / "probabilities.npy"]),
    ):
        if name == "c":  # named by the matrix: the other files share its stem
            for old, new in (("ids.npy", "probabilities.ids.npy"),
                             ("category_ids.npy", "probabilities.category_ids.npy")):  # fmt: skip
                (other / old).rename(other / new)
        call_tool(
            "ensemble", "--predictions", *members, "--rule", rule, "--output",
            tmp_path / f"{name}.csv", "--all_probabilities", tmp_path / name,
        )  # fmt: skip
    first, second = (matrix.astype(np.float64) for matrix in map(matrix_of, exported))
    if rule == "average":
        wanted = (first + second) / 2
    elif rule == "geometric_mean":
        wanted = np.sqrt(first * second)
        wanted /= wanted.sum(1, keepdims=True)
    else:
        k = first.shape[1]
        votes = (np.eye(k)[first.argmax(1)] + np.eye(k)[second.argmax(1)]) / 2
        wanted = 0.99 * votes + 0.01 * (first + second) / 2
    for name in "abc":
        np.testing.assert_allclose(matrix_of(tmp_path / name), wanted, rtol=2e-5, atol=1e-7)
        np.testing.assert_array_equal(
            np.load(tmp_path / name / "ids.npy"), np.load(exported[0] / "ids.npy")
        )
    assert len({(tmp_path / f"{name}.csv").read_bytes() for name in "abc"}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [1, 2])
def test_each_image_is_decoded_once_a_size(
    sizes: int, trained: Path, rival: Path, few: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    seen: list[tuple[bytes, int]] = []
    decode = decoding.decode_into

    def counting(data: bytes, into: np.ndarray) -> None:
        seen.append((data, into.shape[0]))
        decode(data, into)

    monkeypatch.setattr(decoding, "decode_into", counting)
    runs = [trained, trained, rival][: 1 + sizes] if sizes == 2 else [trained, trained]
    call_tool("ensemble", "--runs", *runs, "--data", few, "--output", tmp_path / "s.csv")
    num_images = sum(len(record["imgs"]) for record in bson.decode_all(few.read_bytes()))
    assert len(seen) == sizes * num_images


@pytest.mark.slow
def test_fitted_weights_of_runs_and_files(
    trained: Path, rival: Path, sample: SampleFiles, few: Path, exported: list[Path],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By default on the validation part of both; on named products as from their files."""
    call_tool(
        "ensemble", "--runs", trained, rival, "--data", few, "--weights", "fitted",
        "--output", tmp_path / "own.csv", "--min_confidence", 0.5,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "weights fitted on 24 validation products" in said
    member, ensemble = (
        [float(nll) for nll in re.findall(pattern, said)]
        for pattern in (r"\d\.\d{4}  nll (\d+\.\d+)", r"ensemble nll (\d+\.\d+)")
    )
    assert len(member) == 2
    assert ensemble[0] <= min(member) + 1e-4
    assert (tmp_path / "own.csv.levels.csv").exists()

    call_tool(
        "ensemble", "--runs", trained, rival, "--data", few, "--weights", "fitted",
        "--fit_on", few, "--output", tmp_path / "runs.csv",
    )  # fmt: skip
    from_runs = re.findall(r"--weights (\S+)", capsys.readouterr().out)[-1]
    parquets = [place.with_suffix(".parquet") for place in exported]
    call_tool(
        "ensemble", "--predictions", *exported, "--weights", "fitted", "--fit_predictions",
        *parquets, "--output", tmp_path / "files.csv",
    )  # fmt: skip
    from_files = re.findall(r"--weights (\S+)", capsys.readouterr().out)[-1]
    assert (tmp_path / "runs.csv").read_bytes() == (tmp_path / "files.csv").read_bytes()
    numbers = [[float(part) for part in text.split(",")] for text in (from_runs, from_files)]
    categories = Categories.from_json(read_predictions(parquets[0]).categories_json)
    category = read_predictions(parquets[0]).table["category_id"].to_pylist()
    label = categories.class_of(np.asarray([-1 if c is None else c for c in category]))
    known = np.flatnonzero(label >= 0)
    by_hand, _ = fit_average(
        np.log(np.stack([matrix_of(place)[known, label[known]] for place in exported], 1))
    )
    np.testing.assert_allclose(numbers[1], by_hand, atol=1e-4)
    # The product without images, of which runs know only the prior, is not fitted on by runs.
    np.testing.assert_allclose(numbers[0], numbers[1], atol=0.1)


def test_evaluation_of_files(
    trained: Path, few: Path, exported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of one run scores as the run; a submission as far as it goes."""
    call_tool("evaluate", "--workdir", trained, "--data", few, "--json")
    of_run = json.loads(capsys.readouterr().out)
    of_run.pop("remarks")
    for file in (exported[0].with_suffix(".parquet"), exported[0]):
        call_tool("evaluate", "--predictions", file, "--data", few, "--json")
        of_file = json.loads(capsys.readouterr().out)
        assert "1 products of unknown category: not scored" in of_file.pop("remarks")
        assert of_file == pytest.approx(of_run, abs=1e-5)
    call_tool("evaluate", "--predictions", exported[0].with_suffix(".csv"), "--data", few, "--json")
    found = json.loads(capsys.readouterr().out)
    found.pop("remarks")
    assert set(of_run) - set(found) == {
        "top5", "nll", "calibration_error", "top1_level_1", "top1_level_2", "top1_level_3",
        "error_tree_distance",
    }  # fmt: skip
    assert found == pytest.approx({name: of_run[name] for name in found})


def write_matrix(path: Path, ids: np.ndarray, probabilities: np.ndarray) -> Path:
    """A full matrix of classes 1, 2, ..."""
    categories = categories_from_ids(np.arange(1, probabilities.shape[1] + 1))
    n, empty = len(ids), np.zeros(0, np.int32)
    block = PredictionBlock(
        product_id=ids,
        category_id=np.zeros(n, np.int64),
        has_category=np.zeros(n, bool),
        log_prob_true=np.zeros(n, np.float32),
        num_images=np.ones(n, np.int32),
        num_readable_images=np.ones(n, np.int32),
        top_class=np.zeros((n, 1), np.int32),
        top_probability=np.zeros((n, 1), np.float32),
        image_index=empty,
        attention=empty.astype(np.float32),
        image_top_class=empty,
        probabilities=probabilities.astype(np.float32),
    )
    about: Any = {"categories_json": categories.to_json(), "run": {}}
    writer = MatrixWriter(path, categories.ids, n, **about)
    with written_whole([writer]):
        writer.write(block)
    return path


@pytest.mark.slow
def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: Any) -> None:
    """Three members of 16 MB each, out of order, with blocks of 1 MB."""
    n, k = 20_000, 200
    rng = np.random.default_rng(0)
    members = []
    for number in range(3):
        probabilities = rng.random((n, k), np.float32)
        probabilities /= probabilities.sum(1, keepdims=True)
        ids = np.arange(n) if number == 0 else rng.permutation(n)
        members.append(write_matrix(tmp_path / str(number), ids, probabilities))
    monkeypatch.setattr(member_files, "BLOCK_BYTES", 1_000_000)
    # Once before: imports and compiled programs are no part of a block.
    call_tool("ensemble", "--predictions", *members, "--output", tmp_path / "s.csv")
    tracemalloc.start()
    call_tool("ensemble", "--predictions", *members, "--output", tmp_path / "s.csv")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10_000_000
    rows = (tmp_path / "s.csv").read_text().splitlines()
    assert len(rows) == n + 1
    ids, matrices = (
        [np.load(member / f"{name}.npy") for member in members] for name in ("ids", "probabilities")
    )
    for product in (0, 4321, n - 1):
        mean = np.mean([m[i == product][0] for m, i in zip(matrices, ids, strict=True)], 0)
        assert rows[1 + product] == f"{product},{mean.argmax() + 1}"


def test_a_parquet_member_is_read_as_a_stream(tmp_path: Path) -> None:
    """Any blocks in the order of the file, twice, and any order once it is held."""
    n, k, topk = 40_000, 60, 50
    rng = np.random.default_rng(0)
    probabilities = rng.random((n, k), np.float32)
    probabilities /= probabilities.sum(1, keepdims=True)
    top = np.argsort(-probabilities, 1)[:, :topk].astype(np.int32)
    path = tmp_path / "p.parquet"
    categories = categories_from_ids(np.arange(k) * 3 + 1)
    writer = ParquetWriter(path, categories.ids, categories_json=categories.to_json(), run={})
    empty = np.zeros(0, np.int32)
    block = PredictionBlock(
        product_id=np.arange(n), category_id=np.ones(n, np.int64), has_category=np.ones(n, bool),
        log_prob_true=np.zeros(n, np.float32), num_images=np.ones(n, np.int32),
        num_readable_images=np.ones(n, np.int32), top_class=top,
        top_probability=np.take_along_axis(probabilities, top, 1), image_index=empty,
        attention=empty.astype(np.float32), image_top_class=empty, probabilities=None,
    )  # fmt: skip
    with written_whole([writer]):
        writer.write(block)
    wanted = probabilities.copy()
    np.put_along_axis(wanted, top.astype(np.int64), np.float32(0), 1)
    rest = wanted.sum(1, keepdims=True) / (k - topk)
    wanted = np.repeat(rest, k, axis=1)
    np.put_along_axis(wanted, top.astype(np.int64), block.top_probability, 1)
    whole_bytes = n * topk * 12
    del block, top
    member, before_bytes = ParquetMember(path), pa.total_allocated_bytes()
    for rows in (4000, 17, 9000):
        for first in range(0, n if rows == 9000 else 3 * rows, rows):
            places = np.arange(first, min(first + rows, n))
            np.testing.assert_allclose(member.rows(places), wanted[places], atol=1e-6)
            assert pa.total_allocated_bytes() - before_bytes < whole_bytes / 2
    member.hold()
    for _ in range(3):
        places = rng.permutation(n)[:500]
        np.testing.assert_allclose(member.rows(places), wanted[places], atol=1e-6)


def test_members_that_miss_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused in one line with the first ids; a long list goes to a file."""
    rng = np.random.default_rng(0)
    ids = np.arange(100, 130)
    probabilities = rng.dirichlet(np.ones(4), 30)
    whole = write_matrix(tmp_path / "whole", ids, probabilities)
    output, listing = tmp_path / "s.csv", tmp_path / "s.csv.missing.csv"
    part = write_matrix(tmp_path / "part", ids[:28], probabilities[:28])
    message = refused(capsys, "--predictions", whole, part, "--output", output)
    assert f"{part} misses 2 products that others have (128, 129)" in message
    assert not listing.exists()
    tiny = write_matrix(tmp_path / "tiny", ids[:10], probabilities[:10])
    message = refused(capsys, "--predictions", whole, part, tiny, "--output", output)
    assert f"{tiny} misses 20 products that others have (110, 111, 112, 113, 114, ...)" in message
    with listing.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["member"], row["missing"], int(row["id"])) for row in rows] == [
        *((str(part), "products", number) for number in (128, 129)),
        *((str(tiny), "products", number) for number in range(110, 130)),
    ]
    few_classes = probabilities[:, :3] / probabilities[:, :3].sum(1, keepdims=True)
    narrow = write_matrix(tmp_path / "narrow", ids, few_classes)
    message = refused(capsys, "--predictions", whole, narrow, "--output", output)
    assert f"{narrow} misses 1 categories that others have (4)" in message
    assert not output.exists()


@pytest.mark.slow
def test_a_tree_and_a_net_are_combined_by_their_files(
    trained: Path, sample: SampleFiles, few: Path, exported: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from product_mil.runs.run import run

    config = load_config(str(ROOT / "configs/tree.py"))
    data = dataclasses.replace(
        config.data, train=str(sample.train), categories=str(sample.categories), image_size_px=48
    )
    head = dataclasses.replace(config.head, epochs=2, images_per_batch=32)
    run(dataclasses.replace(config, data=data, head=head), tmp_path / "tree")
    message = refused(
        capsys, "--runs", trained, tmp_path / "tree", "--data", few, "--output", tmp_path / "s.csv"
    )
    assert f"{tmp_path / 'tree'} goes by hand-made features" in message
    assert "combine the files with --predictions" in message
    call_tool(
        "export_predictions", "--workdir", tmp_path / "tree", "--data", few, "--topk", 1000,
        "--output", tmp_path / "t.csv", "--probabilities", tmp_path / "t.parquet",
        "--all_probabilities", tmp_path / "t",
    )  # fmt: skip
    call_tool(
        "ensemble", "--predictions", exported[0], tmp_path / "t.parquet", "--output",
        tmp_path / "s.csv", "--all_probabilities", tmp_path / "m",
    )  # fmt: skip
    wanted = (matrix_of(exported[0]) + matrix_of(tmp_path / "t")) / 2
    np.testing.assert_allclose(matrix_of(tmp_path / "m"), wanted, atol=2e-6)


def test_refusals(
    trained: Path, few: Path, exported: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "s.csv"
    good = ("--predictions", *exported, "--output", output)
    assert "one of the two" in refused(capsys, "--output", output)
    assert "give --data" in refused(capsys, "--runs", trained, "--output", output)
    assert "2 members" in refused(capsys, *good, "--weights", "1")
    assert "nor all 0" in refused(capsys, *good, "--weights", "0,0")
    assert "say equal, fitted" in refused(capsys, *good, "--weights", "best")
    assert "--fit_predictions" in refused(capsys, *good, "--weights", "fitted")
    assert "--fit_predictions" in refused(capsys, *good, "--min_confidence", "0.9")
    assert "one for each member" in refused(
        capsys, *good, "--weights", "fitted", "--fit_predictions", exported[0]
    )
    assert "give --data" in refused(capsys, *good, "--probabilities", tmp_path / "p.parquet")
    assert "one guess a product" in refused(
        capsys, "--predictions", exported[0].with_suffix(".csv"), exported[1], "--output", output
    )
    assert "is a member itself" in refused(capsys, *good, "--all_probabilities", exported[0])
    assert "no such directory" in refused(
        capsys, "--runs", trained, tmp_path / "no", "--data", few, "--output", output
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_probability_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 5000)
    ids = np.arange(5000)
    whole = write_matrix(tmp_path / "whole", ids, probabilities)
    probabilities[4998] = np.nan
    broken = write_matrix(tmp_path / "broken", ids, probabilities)
    args = ("--predictions", whole, broken, "--output", tmp_path / "s.csv",
            "--all_probabilities", tmp_path / "m")  # fmt: skip
    message = refused(capsys, *args)
    assert f"{broken}: what it says of product 4998 are no probabilities" in message
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".draft")]
    assert not list((tmp_path / "m").iterdir())
    matrix = whole / "probabilities.npy"
    np.save(matrix, np.asfortranarray(np.load(matrix)))
    assert "column by column" in refused(capsys, "--predictions", whole, broken, *args[3:])
    np.save(matrix, np.ascontiguousarray(np.load(matrix)))
    matrix.write_bytes(matrix.read_bytes()[:-8])
    assert "cannot read" in refused(capsys, "--predictions", whole, broken, *args[3:])
