"""However the files are cut into units, the rows are those of one export, to the last bit."""

import json
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import bson
import pyarrow.parquet as pq
import pytest

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.errors import OutputError, UserError
from product_mil.inference.outputs import Outputs
from product_mil.runs.manifest import merge, write_manifest
from product_mil.runs.opening import open_run
from product_mil.runs.predict import predict
from product_mil.runs.predict_units import Job, Tally, UnitPredictor, followed
from product_mil.runs.run import run
from product_mil.runs.unit_files import UnitFiles
from product_mil.runs.units import Unit, units_of
from product_mil.sources.bson import index
from product_mil.sources.sample.draw import SampleFiles
from tests.sources.of_products import PRODUCTS, csv_of_lists, folder, jpeg


@pytest.fixture(scope="module")
def frozen(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose backbone stayed frozen: its export goes through the embedding cache."""
    config = Config(
        data=DataConfig(
            train=str(sample.train), categories=str(sample.categories), image_size_px=32, shards=4
        ),
        model=ModelConfig(backbone="small_cnn"),
        head=StageConfig(epochs=1, trainable="head", images_per_batch=32),
        finetune=StageConfig(epochs=0),
    )
    workdir = tmp_path_factory.mktemp("frozen")
    run(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def records(sample: SampleFiles) -> list[dict[str, Any]]:
    """Those of the sample, with faults, and ids that are not sorted."""
    found = bson.decode_all(sample.train.read_bytes())
    for number, record in enumerate(found):
        record["_id"] = number * 7919 % 1000 - 300
    found[4]["imgs"] = []
    found[5]["imgs"] = [{"picture": b"no JPEG"}]
    found[6]["imgs"].insert(0, {"picture": found[6]["imgs"][0]["picture"][:300]})
    return found


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(map(bson.encode, records)))
    return path


@pytest.fixture
def files(records: list[dict[str, Any]], tmp_path: Path) -> Path:
    """The records in four files of different sizes."""
    directory = tmp_path / "data"
    directory.mkdir()
    for number, (start, stop) in enumerate([(0, 9), (9, 10), (10, 80), (80, 120)]):
        write(directory / f"{number}.bson", records[start:stop])
    return directory


def job_of(workdir: Path, output: Path, unit_mb: float = 1000.0, **more: Any) -> Job:
    return Job(workdir=workdir, output=output, unit_mb=unit_mb, **more)


def predicted(job: Job, data: str) -> tuple[list[Unit], Tally]:
    units = units_of(data, job.unit_mb)
    predictor = UnitPredictor(job)
    predictor.begin(units)
    return units, followed(predictor.outcomes(units), len(units))


def rows_of(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.exists() else []


def content(directory: Path) -> dict[str, bytes]:
    """All files but locks, by name."""
    found = (path for path in directory.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


@pytest.mark.parametrize("kind", ["frozen", "trained"])
@pytest.mark.slow
def test_rows_do_not_depend_on_the_cuts(
    kind: str, files: Path, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    workdir, data = request.getfixturevalue(kind), f"{files}/*.bson"
    outputs = Outputs(tmp_path / "all.csv", tmp_path / "all.parquet")
    exported = predict(open_run(workdir), data, outputs)
    assert exported.num_imageless == 2
    wanted = pq.read_table(tmp_path / "all.parquet")
    monkeypatch.setattr("product_mil.runs.feed.cached_embeddings", None)  # units leave it alone
    for unit_mb, least in ((1000.0, 4), (0.1, 10)):
        job = job_of(workdir, tmp_path / f"{unit_mb}", unit_mb)
        units, tally = predicted(job, data)
        assert tally == (len(units), 0, {}, 3)
        assert least <= len(units) < 2 * least
        tables = [path for path in map(job.files.parquet, (u.name for u in units)) if path.exists()]
        assert pq.read_table(tables).equals(wanted)
        assert merge(job.files, units, tmp_path / "merged.csv") == 120
        assert (tmp_path / "merged.csv").read_bytes() == outputs.submission.read_bytes()
        done = [job.files.done(unit.name) for unit in units]
        listed = sorted(row for unit in units for row in rows_of(job.files.faults(unit.name)))
        assert listed == sorted(rows_of(tmp_path / "all.csv.bad_records.csv"))
        assert sum(one.num_faults for one in done if one) == len(listed) > 2
        assert sum(one.num_imageless for one in done if one) == 2


def test_one_program_serves_all_units(
    frozen: Path, files: Path, tmp_path: Path, traced: list[Any]
) -> None:
    _, tally = predicted(job_of(frozen, tmp_path / "out"), f"{files}/*.bson")
    assert tally.predicted == 4  # of 1 to 70 products
    assert len(traced) == 2  # the net, and the head


def test_the_same_command_goes_on(trained: Path, files: Path, tmp_path: Path) -> None:
    """Skipped where done, made again where damaged, predicted where failed before."""
    job, data = job_of(trained, tmp_path / "out"), f"{files}/*.bson"
    bad = files / "2.bson"
    good_bytes = bad.read_bytes()
    bad.write_bytes(b"no dump at all")
    units, tally = predicted(job, data)
    assert (tally.predicted, tally.skipped, list(tally.failed)) == (3, 0, ["2.bson"])
    assert "2.bson" in tally.failed["2.bson"]
    assert write_manifest(job.files, units, unique_ids=False)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["num_units"], manifest["num_products"]) == (4, 50)
    assert manifest["failed"] == tally.failed
    with pytest.raises(UserError, match=r"1 of 4 units are not predicted, such as 2\.bson"):
        merge(job.files, units, tmp_path / "merged.csv")
    assert not (tmp_path / "merged.csv").exists()

    bad.write_bytes(good_bytes)
    assert predicted(job, data)[1] == (1, 3, {}, 3)
    assert write_manifest(job.files, units, unique_ids=False)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["num_products"], manifest["failed"]) == (120, {})
    assert manifest["repeated_ids"] == {"count": 0, "first": []}
    before = content(tmp_path / "out")

    job.files.parquet("0.bson").write_bytes(before["parquet/0.bson.parquet"][:-100])
    job.files.csv("1.bson").unlink()
    (job.files.directory / "done" / "3.bson.json").write_text("{")
    job.files.parquet("3.bson").write_bytes(b"cut")
    assert predicted(job, data)[1] == (3, 1, {}, 3)
    assert content(tmp_path / "out") == before


def test_other_data_and_another_checkpoint_are_refused(
    trained: Path, frozen: Path, files: Path, tmp_path: Path
) -> None:
    job, data = job_of(trained, tmp_path / "out"), f"{files}/*.bson"
    predicted(job, data)
    before = content(tmp_path / "out")
    for other, message in (
        (
            replace(job, workdir=frozen),
            "predictions of another model .*: it was begun with stage finetune, not",
        ),
        (replace(job, topk=3), "was begun with --topk 10: go on with --topk 10, or"),
        (replace(job, tau=1.0), "was begun with --logit_adjustment 0: go on"),
        (replace(job, images_per_batch=8), "was begun without --images_per_batch: go on without"),
        (replace(job, unit_mb=0.1), "was begun with --unit_mb 1000: go on with --unit_mb 1000, or"),
    ):
        with pytest.raises(UserError, match=message):
            predicted(other, data)
    assert content(tmp_path / "out") == before

    moved = (files / "1.bson").read_bytes()
    (files / "1.bson").write_bytes(moved)  # another time, the same data
    assert predicted(job, data)[1] == (0, 4, {}, 3)
    now = content(tmp_path / "out")
    assert {name for name in before if now[name] != before[name]} == {"done/1.bson.json"}
    shutil.copy(files / "0.bson", files / "1.bson")
    with pytest.raises(UserError, match=r"1\.bson\.csv was predicted from other data than .*1\.bs"):
        predicted(job, data)
    (files / "1.bson").write_bytes(b"no dump")
    assert list(predicted(job, data)[1].failed) == ["1.bson"]
    (files / "1.bson").write_bytes(moved)
    assert predicted(job, data)[1] == (0, 4, {}, 3)
    assert not job.files.failure("1.bson")


def test_a_repeated_file_and_repeated_ids(
    trained: Path, files: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The merged file is the export of all: of each id the first row."""
    write(files / "4.bson", [*records[30:50], *records[:3], *records[30:32]])
    data = f"{files}/*.bson"
    predict(open_run(trained), data, Outputs(tmp_path / "all.csv"))
    job = job_of(trained, tmp_path / "out")
    units, _ = predicted(job, data)
    assert merge(job.files, units, tmp_path / "merged.csv.gz") == 120
    assert merge(job.files, units, tmp_path / "merged.csv") == 120
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()
    assert write_manifest(job.files, units, unique_ids=True)
    path = tmp_path / "out" / "manifest.json"
    assert json.loads(path.read_text())["repeated_ids"] is None
    assert write_manifest(job.files, units, unique_ids=False)
    repeated = json.loads(path.read_text())["repeated_ids"]
    assert repeated["count"] == 23
    assert repeated["first"][0] == [records[30]["_id"], "4.bson"]
    assert len(repeated["first"]) == 10


def test_what_nobody_foresaw_ends_the_run_only_if_it_goes_on(
    trained: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(trained, tmp_path / "out")
    units = units_of(f"{files}/*.bson")
    predictor = UnitPredictor(job)
    predictor.begin(units)
    real, calls = predictor._predicted, []

    def faulty(unit: Unit, state: str) -> Any:
        calls.append(unit.name)
        if unit.name != "1.bson":
            raise RuntimeError("lost")
        return real(unit, state)

    monkeypatch.setattr(predictor, "_predicted", faulty)
    tally = followed(predictor.outcomes(units), 4)
    assert tally.predicted == 1
    assert set(tally.failed.values()) == {"unexpected RuntimeError: lost"}
    with pytest.raises(RuntimeError, match="lost"):
        list(predictor.outcomes([units[0]]))
    assert calls == ["0.bson", "1.bson", "2.bson", "3.bson", "0.bson"]


def test_one_of_several_makes_the_index(
    trained: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, build_index = [], index.build_index

    def slowly(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        time.sleep(0.3)
        return build_index(*arguments, **options)

    monkeypatch.setattr(index, "build_index", slowly)
    job = job_of(trained, tmp_path / "out", 0.1)
    units = units_of(f"{files}/2.bson", job.unit_mb)[:2]
    predictors = [UnitPredictor(job) for _ in units]
    predictors[0].begin([])
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(UnitPredictor.predict, predictors, units))
    assert all(outcome.done for outcome in outcomes)
    assert len(made) == 1


def test_two_attempts_at_one_unit(trained: Path, files: Path, tmp_path: Path) -> None:
    """The second one begins and ends while the first one is at it: both write the same."""
    job = job_of(trained, tmp_path / "out")
    units = units_of(f"{files}/2.bson")
    first, second = UnitPredictor(job), UnitPredictor(job)
    first.begin(units)
    make, outcomes = first.run.batches, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        assert len(list((tmp_path / "out").rglob(".draft-*"))) == 2
        outcomes.append(second.predict(units[0]))
        return make(*arguments, **options)

    object.__setattr__(first.run, "batches", interrupted)
    outcomes.append(first.predict(units[0]))
    assert [outcome.skipped for outcome in outcomes] == [False, False]
    assert outcomes[0].done is not None
    assert outcomes[0].done == outcomes[1].done == UnitFiles(job.output).done("2.bson")
    assert not list((tmp_path / "out").rglob(".draft-*"))


def test_a_disk_that_is_full_ends_the_run(
    trained: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(trained, tmp_path / "out")
    units = units_of(f"{files}/*.bson")
    predictor = UnitPredictor(job)
    predictor.begin(units)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("product_mil.files.whole.Draft.publish", full)
    with pytest.raises(OutputError, match="No space left on device"):
        predictor.predict(units[0])
    assert not list((tmp_path / "out" / "failed").iterdir())


@pytest.mark.slow
def test_folders_and_tables(trained: Path, tmp_path: Path) -> None:
    """A folder is a unit, and a table is cut like a dump: the rows are those of an export."""
    folder(tmp_path / "photos")
    table = csv_of_lists(tmp_path / "table.csv")
    for spec, unit_mb, least in ((tmp_path / "photos", 1000.0, 1), (table, 0.0022, 3)):
        data, output = str(spec), tmp_path / f"out-{spec.name}"
        predict(open_run(trained), data, Outputs(tmp_path / "all.csv", tmp_path / "all.parquet"))
        job = job_of(trained, output, unit_mb)
        units, tally = predicted(job, data)
        assert len(units) >= least
        assert tally == (len(units), 0, {}, 0)
        assert merge(job.files, units, tmp_path / "merged.csv") == len(PRODUCTS)
        assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()
        found = pq.read_table([job.files.parquet(unit.name) for unit in units])
        assert found.equals(pq.read_table(tmp_path / "all.parquet"))
        assert predicted(job, data)[1] == (0, len(units), {}, 0)
    next((tmp_path / "photos").rglob("*.jpg")).write_bytes(jpeg(200))
    with pytest.raises(UserError, match=r"photos\.csv was predicted from other data"):
        predicted(job_of(trained, tmp_path / "out-photos"), str(tmp_path / "photos"))
