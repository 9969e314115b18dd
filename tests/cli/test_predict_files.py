"""`product-mil predict-files`: shares, a kill at any moment, and what it says and refuses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import bson
import pytest

from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT, call_tool

predict_files = partial(call_tool, "predict_files")


# Kills itself at the first call of a method when so many units are done. With the first method, a
# unit's first file is about to be published; with the second one, all but the last note is written.
KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from product_mil.cli.predict_files import main

module, owner, name = sys.argv[1].rsplit(".", 2)
owner = getattr(importlib.import_module(f"product_mil.{module}"), owner)
method, output, count = getattr(owner, name), Path(sys.argv[2]), int(sys.argv[3])

def killed(*arguments):
    if len(list((output / "done").glob("*.json"))) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*arguments)

setattr(owner, name, killed)
main(sys.argv[4:])
"""


@pytest.fixture
def data(sample: SampleFiles, tmp_path: Path) -> str:
    """The products of the sample in six files."""
    records = bson.decode_all(sample.train.read_bytes())
    (tmp_path / "data").mkdir()
    for number in range(6):
        encoded = b"".join(map(bson.encode, records[number::6]))
        (tmp_path / "data" / f"{number}.bson").write_bytes(encoded)
    return str(tmp_path / "data" / "*.bson")


def files_in(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def arguments_of(trained: Path, data: str, output: Path, *more: object) -> list[str]:
    return ["--workdir", str(trained), "--data", data, "--output", str(output), *map(str, more)]


@pytest.mark.slow
def test_two_shares_and_a_merged_file(
    trained: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    call_tool(
        "export_predictions", "--workdir", trained, "--data", data, "--output", tmp_path / "all.csv"
    )
    capsys.readouterr()
    output, said = tmp_path / "out", ""
    for number, variables in enumerate(({"ID": 11}, {"ID": 12})):
        for name, value in {"MIN": 11, "STEP": 1, "COUNT": 2, **variables}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        predict_files(*arguments_of(trained, data, output))
        said = capsys.readouterr().out
        assert f"6 units: 3 of them in share {number} of 2; writing {output}" in said
        assert "\nunits predicted: 3, done before: 0\n" in said
        assert ("other shares are not done yet" in said) == (number == 0)
    assert "6 units, 120 products" in said
    with pytest.raises(SystemExit):
        predict_files(*arguments_of(trained, data, output, "--merge", tmp_path / "merged.csv"))
    assert "--merge: when all shares are done" in capsys.readouterr().err

    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    predict_files(*arguments_of(trained, data, output, "--merge", tmp_path / "merged.csv"))
    said = capsys.readouterr().out
    assert "\nunits predicted: 0, done before: 6\n" in said
    assert said.splitlines()[-2:] == [
        f"{tmp_path / 'merged.csv'}: 120 products",
        f"{output / 'manifest.json'}: 6 units, 120 products",
    ]
    assert sorted((tmp_path / "merged.csv").read_text().splitlines()) == sorted(
        (tmp_path / "all.csv").read_text().splitlines()
    )


def test_a_share_says_how_many_faults_its_units_have(
    trained: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of units that were done before."""
    path = Path(data).with_name("1.bson")
    records = bson.decode_all(path.read_bytes())
    for record in records[:2]:
        record["imgs"][0] = {"picture": b"no image"}
    path.write_bytes(b"".join(map(bson.encode, records)))
    listings = tmp_path / "out" / "faults"
    said = "other shares are not done yet: the last one writes the manifest"
    for share, line in ((0, said), (1, f"{said}; faults in this share: 2, see {listings}")) * 2:
        share_flags = ("--shard", share, "--of", 3)
        predict_files(*arguments_of(trained, data, tmp_path / "out", *share_flags))
        assert capsys.readouterr().out.splitlines()[-1] == line


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_writes_the_same_bytes(
    trained: Path, data: str, tmp_path: Path, cache_of_tests: Path
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    predict_files(*arguments_of(trained, data, whole))
    wanted = files_in(whole)
    assert len(wanted) == 2 + 3 * 6

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PRODUCT_MIL_CACHE": str(cache_of_tests)}
    for moment, done in (("files.whole.Draft.publish", 1), ("runs.unit_files.UnitFiles.finish", 4)):
        command = [sys.executable, "-c", KILLED, moment, str(output), str(done)]
        command += arguments_of(trained, data, output)
        ended = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert len(list((output / "done").glob("*.json"))) == done
        assert not (output / "manifest.json").exists()
    assert len(list((output / "csv").iterdir())) == 5
    predict_files(*arguments_of(trained, data, output))
    assert files_in(output) == wanted


def test_one_bad_file_among_many(
    trained: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "2.bson").write_bytes(b"")
    with pytest.raises(SystemExit) as left:
        predict_files(*arguments_of(trained, data, tmp_path / "out", "--merge", tmp_path / "a.csv"))
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.err.endswith(
        f"; {tmp_path / 'a.csv'} was not written, because it takes all units; the same command "
        "tries them again\n"
    )
    assert not (tmp_path / "a.csv").exists()
    assert said.err.splitlines()[-1].startswith(
        "error: 1 of 6 units could not be predicted, such as 2.bson: "
    )
    assert "units predicted: 5, done before: 0" in said.out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["failed"]) == ["2.bson"]
    assert len(manifest["units"]) == 5


def test_faults_are_counted_and_a_cut_file_is_named(
    trained: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, output = tmp_path / "data" / "2.bson", tmp_path / "out"
    cut.write_bytes(cut.read_bytes()[:-7])
    whole = bson.decode_all((tmp_path / "data" / "4.bson").read_bytes())
    whole[0]["imgs"] = []
    (tmp_path / "data" / "4.bson").write_bytes(b"".join(map(bson.encode, whole)))
    predict_files(*arguments_of(trained, data, output))
    said = capsys.readouterr().out.splitlines()
    ends = {line.split()[3]: line.partition(" s; ")[2] for line in said if " of 6: " in line}
    listed = f"see {output / 'faults'}"
    faults = len((output / "faults" / "2.bson.csv").read_text().splitlines()) - 1
    assert ends == {
        **dict.fromkeys(["0.bson:", "1.bson:", "3.bson:", "5.bson:"], ""),
        "2.bson:": f"faults: {faults}, {listed}/2.bson.csv; the end of the file is missing",
        "4.bson:": f"faults: 1, {listed}/4.bson.csv",
    }
    assert said[-1].endswith(
        f" products; faults: {faults + 1}, {listed}; files whose end is missing: 1, such as {cut}: "
        "fetch them again"
    )
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["num_faults"], manifest["cut_files"]) == (faults + 1, [str(cut)])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard", 0], "--shard K and --of N: give both"),
        (["{here}/data/3.bson", "{here}/data/4.bson"], "pattern: --data '{here}/data/*.bson'"),
        (["/"], "unrecognized arguments: /;"),
        (["{here}/data/none.bson"], "unrecognized arguments: {here}/data/none.bson"),
        (["--topk", 0], "--topk=0: must be at least 1"),
        (["--unit_mb", -1], "--unit_mb=-1: must be more than 0"),
        (["--workers", 2], "--address and --workers are for --engine ray"),
        (["--output", "{here}/data/0.bson"], "0.bson is the data itself"),
        (["--output", "{here}/data"], "holds other files and is not a directory of predict-files"),
        (["--merge", "{here}/out/all.csv"], "there is no directory"),
        (["--merge", "{here}/out/parquet/all.csv"], "there is no directory"),
        (["--workdir", "{here}/none"], "no such directory"),
    ],
)
def test_refusals(
    more: Sequence[object], message: str, trained: Path, data: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    filled = [str(value).format(here=tmp_path) for value in more]
    with pytest.raises(SystemExit) as left:
        predict_files(*arguments_of(trained, data, tmp_path / "out", *filled))
    assert left.value.code == 2
    assert message.format(here=tmp_path) in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_merged_file_lies_elsewhere(
    trained: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_files(*arguments_of(trained, data, tmp_path / "out"))
    with pytest.raises(SystemExit):
        predict_files(
            *arguments_of(trained, data, tmp_path / "out"), "--merge", tmp_path / "out/csv/all.csv"
        )
    assert "lies in" in capsys.readouterr().err
