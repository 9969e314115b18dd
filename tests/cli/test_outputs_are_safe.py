"""No output option of any command takes the place of what we did not write."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT, call_tool

# Each option that names an output: the command, its other arguments, the option, the ending that
# its file wants ("" for a directory), and what the command writes beside that file.
OPTIONS = {
    "export": ("export_predictions", "--workdir {run} --data {data}", "--output", ".csv"),
    "export gz": ("export_predictions", "--workdir {run} --data {data}", "--output", ".csv.gz"),
    "export top": (
        "export_predictions",
        "--workdir {run} --data {data} --output {free}/output.csv",
        "--probabilities",
        ".parquet",
    ),
    "export matrix": (
        "export_predictions",
        "--workdir {run} --data {data} --output {free}/output.csv",
        "--all_probabilities",
        ".npy",
    ),
    "export matrix directory": (
        "export_predictions",
        "--workdir {run} --data {data} --output {free}/output.csv",
        "--all_probabilities",
        "",
    ),
    "files": ("predict_files", "--workdir {run} --data {data}", "--output", ""),
    "files merged": (
        "predict_files",
        "--workdir {run} --data {data} --output {free}/predicted",
        "--merge",
        ".csv",
    ),
    "ensemble": ("ensemble", "--runs {run} {run} --data {data}", "--output", ".csv"),
    "ensemble files": (
        "ensemble",
        "--predictions {run} {run} --output {free}/output.csv",
        "--probabilities",
        ".parquet",
    ),
    "ensemble matrix": (
        "ensemble",
        "--runs {run} {run} --data {data} --output {free}/output.csv",
        "--all_probabilities",
        "",
    ),
    "evaluate": ("evaluate", "--workdir {run} --data {data}", "--faults", ".csv"),
    "embeddings": (
        "export_embeddings",
        "--backbone mobilenet_v2 --weights imagenet --data {data}",
        "--output",
        ".npz",
    ),
    "sheet": ("show_data", "--data {data}", "--output", ".png"),
    "sheet jpg": ("show_data", "--data {data}", "--output", ".jpg"),
    "compare": ("compare", "--runs a={run} b={run} --data {data}", "--output", ""),
    "compare train": (
        "compare",
        "--train --configs a={root}/configs/joint.py:smoke b={root}/configs/averaged.py:smoke "
        "--data {data}",
        "--output",
        "",
    ),
    "model": ("export_model", "--workdir {run}", "--output", ""),
    "sample": ("draw_sample", "--products 2", "--output", ""),
    "table": ("seed_table", "--budget_minutes 1", "--output", ""),
}
BESIDE = {  # files that an output brings along
    "export": ("", ".bad_records.csv"),
    "export levels": ("--min_confidence 0.5", ".levels.csv"),
    "ensemble": ("", ".bad_records.csv"),
    "embeddings": ("", ".bad_records.csv"),
}


def keeps_marks(path: Path) -> bool:
    """Whether this file system has extended attributes, which mark our submissions."""
    try:
        os.setxattr(path, "user.test", b"1")
    except (OSError, AttributeError):
        return False
    return True


def a_csv(path: Path) -> None:
    path.write_text("category_id,name\n1,shoes\n")


def another_table(path: Path) -> None:
    """Nearly a submission, nearly a list of faults."""
    path.write_text("_id,category_id,note\n1,2,mine\n")


def a_submission_of_others(path: Path) -> None:
    """As Kaggle's sample_submission.csv, or a colleague's."""
    path.write_text("_id,category_id\n1,2\n")


def some_bytes(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b\x08PK\x03\x04PAR1\x93NUMPY\x89PNG\r\n\x1a\n" + bytes(range(256)))


def an_image(path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(path, "JPEG" if path.suffix == ".jpg" else "PNG")


def an_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(3))


def an_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, mine=np.arange(3))


def json_of_others(path: Path) -> None:
    path.write_text(json.dumps({"headline": 1}))


def a_link(path: Path) -> None:
    aim = path.with_name("aim")
    a_csv(aim)
    path.symlink_to(aim)


def a_broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path) -> None:
    path.mkdir()
    a_csv(path / "mine.csv")


FOREIGN: list[Callable[[Path], None]] = [
    a_csv, another_table, a_submission_of_others, some_bytes, an_image, an_array, an_archive,
    json_of_others, a_link, a_broken_link, a_pipe, a_directory,
]  # fmt: skip


@pytest.fixture(scope="module")
def words(
    trained: Path, sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    free = tmp_path_factory.mktemp("free")
    return {"run": trained, "data": sample.train, "root": ROOT, "free": free}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of the user's."""
    (tmp_path / "own").mkdir()
    yield tmp_path / "own"
    shutil.rmtree(tmp_path)


def what_is_in(directory: Path, *, read: bool = True) -> dict[str, Any]:
    """Everything below a directory: links by their aim, files by age, place and, if read, bytes."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content: Any = status.st_mode
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = read and path.read_bytes(), status.st_mtime_ns, status.st_ino
        found[str(path.relative_to(directory))] = content
    return found


def refused(
    option: str, path: Path, words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> str:
    tool, arguments, flag, _ = OPTIONS[option]
    given = arguments.format(**words).split()
    watched = words["run"], words["data"].parent, words["free"], path.parent
    before = [
        what_is_in(directory, read=directory == path.parent)
        for directory in watched
        if str(directory) not in ("/", "/dev", ".")
    ]
    with pytest.raises(SystemExit) as left:
        call_tool(tool, *given, f"{flag}={path}")
    message = capsys.readouterr().err
    assert left.value.code == 2, message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert before == [
        what_is_in(directory, read=directory == path.parent)
        for directory in watched
        if str(directory) not in ("/", "/dev", ".")
    ]
    return message


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_not_ours_is_refused(
    option: str,
    make: Callable[[Path], None],
    place: Path,
    words: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    ending = OPTIONS[option][-1]
    path = place / f"output{ending}"
    make(path)
    if make is a_submission_of_others and not keeps_marks(path):
        pytest.skip("the file system has no extended attributes")
    assert path.name in refused(option, path, words, capsys)


@pytest.mark.parametrize("option", OPTIONS)
def test_data_run_and_devices_are_refused(
    option: str, place: Path, words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run: Path = words["run"]
    for path in (
        words["data"],
        run / "config.json",
        run / "metrics.jsonl",
        run / "bad_records.csv",
        run / "checkpoints",
        run / "checkpoints" / "finetune" / f"7{OPTIONS[option][-1]}",
        run / "tensorboard" / f"mine{OPTIONS[option][-1]}",
        words["data"].with_name(f"{words['data'].name}.index") / f"mine{OPTIONS[option][-1]}",
        Path(os.devnull),
        place / "absent" / "output",
        place / ("x" * 300 + OPTIONS[option][-1]),
        Path("-"),
        Path("/"),
    ):
        refused(option, path, words, capsys)


@pytest.mark.parametrize("option", [name for name in OPTIONS if "{data}" in OPTIONS[name][1]])
def test_nothing_is_written_into_a_folder_that_is_read(
    option: str, place: Path, words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """There it would be taken for an image, or for a layer of folders, by the next command."""
    (place / "photos" / "cup" / "1").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place / "photos" / "cup" / "1" / "0.jpg")
    for path in (place / "photos" / "cup" / "1", place / "photos"):
        message = refused(
            option, path / f"new{OPTIONS[option][-1]}", words | {"data": place / "photos"}, capsys
        )
        assert f"lies in {place / 'photos'}, which is read as data: choose another" in message


@pytest.mark.parametrize("ending", [".zip", ".tsv", ".txt", ".csv.bz2", ".csv.zip", "", ".xlsx"])
@pytest.mark.parametrize("option", ["export", "ensemble"])
def test_a_name_says_what_is_written(
    option: str, ending: str, place: Path, words: dict[str, Any], capsys: Any
) -> None:
    assert ".csv or .csv.gz" in refused(option, place / f"output{ending}", words, capsys)


@pytest.mark.parametrize("option", BESIDE)
def test_files_beside_an_output_are_outputs(
    option: str, place: Path, words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    more, suffix = BESIDE[option]
    name = option.partition(" ")[0]
    tool, arguments, flag, ending = OPTIONS[name]
    path = place / f"output{ending}"
    a_csv(path.with_name(path.name + suffix))
    before = what_is_in(place)
    with pytest.raises(SystemExit) as left:
        call_tool(tool, *arguments.format(**words).split(), *more.split(), flag, path)
    assert left.value.code == 2
    assert suffix in capsys.readouterr().err
    assert what_is_in(place) == before


@pytest.mark.slow
def test_former_outputs_are_replaced(
    place: Path, words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    good = ("--workdir", words["run"], "--data", words["data"])
    every = (
        "--output", place / "s.csv", "--probabilities", place / "p.parquet",
        "--all_probabilities", place / "m", "--min_confidence", 0.5,
    )  # fmt: skip
    call_tool("export_predictions", *good, *every)
    first = what_is_in(place)
    call_tool("export_predictions", *good, *every)
    second = what_is_in(place)
    assert first.keys() == second.keys()
    for name in ("s.csv", "s.csv.levels.csv", "m/probabilities.npy", "m/ids.npy"):
        assert first[name][0] == second[name][0], name
        assert first[name][2] != second[name][2], name  # written anew
    for name in ("sheet.png", "sheet.jpg"):
        for _ in range(2):
            call_tool("show_data", "--data", words["data"], "--output", place / name)
    (place / "empty.csv").touch()  # as mktemp makes them
    call_tool("export_predictions", *good, "--output", place / "empty.csv")
    assert (place / "empty.csv").stat().st_size
    capsys.readouterr()


def test_a_list_of_no_faults_leaves_other_files_alone(
    place: Path, words: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The data have no fault: there is nothing to list."""
    call_tool(
        "evaluate", "--workdir", words["run"], "--data", words["data"], "--faults", place / "f.csv"
    )
    assert not what_is_in(place)
    capsys.readouterr()
