"""Drafts: whole or not at all, apart from each other, and cleared away after a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from product_mil.errors import UserError
from product_mil.files.outputs import Kind, check_output, csv_with_header
from product_mil.files.whole import (
    Draft,
    draft_directory,
    to_json,
    whole,
    whole_directory,
    write_json,
    write_text,
)

LIST = Kind("a list", (".csv", ".csv.gz"), csv_with_header(("a", "b")))


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"

    def fail() -> None:
        with whole(path, LIST) as file:
            file.write(b"a,b\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())
    write_text(path, "a,b\n1,2\n", LIST)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.csv", "a,b\n1,2\n")]


def test_two_drafts_of_one_file_do_not_meet(tmp_path: Path) -> None:
    first, second = Draft(tmp_path / "x.csv"), Draft(tmp_path / "x.csv")
    first.file.write(b"first")
    second.file.write(b"second")
    second.publish()
    assert (tmp_path / "x.csv").read_text() == "second"
    first.publish()
    assert (tmp_path / "x.csv").read_text() == "first"
    for draft in (first, second):
        draft.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from product_mil.files.whole import *\n"
        f"d = Path({str(tmp_path)!r}); a = Draft(d / 'x.csv'); b = Draft(d / 'y.csv')\n"
        "with draft_directory(d) as inside:\n"
        "    (inside / 'page').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 3
    alive = Draft(tmp_path / "z.csv")
    write_text(tmp_path / "x.csv", "whole")
    with draft_directory(tmp_path) as inside:
        (inside / "page").write_text("whole")
    names = {path.name for path in tmp_path.iterdir()}
    # That of y.csv stays until y.csv is written again; that of z.csv is being written.
    assert len(names) == 4
    assert {"x.csv", "page", alive.draft.name} < names
    write_text(tmp_path / "y.csv", "whole")
    alive.discard()
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "y.csv", "page"}


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"

    def write() -> None:
        with whole(path, LIST) as file:
            file.write(b"a,b\n1,2\n")
            path.write_text("somebody's")

    with pytest.raises(UserError, match=r"is not a list.*what was to be written is (.*)") as error:
        write()
    assert path.read_text() == "somebody's"
    kept = Path(str(error.value).rpartition("is ")[2])
    assert kept.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("name", ["n" * 250 + ".csv", "a [b]*?.csv", "\udcff\udcfe.csv", "-.csv"])
def test_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    check_output(path, LIST)
    write_text(path, "a,b\n", LIST)
    check_output(path, LIST)
    write_text(path, "a,b\n1,2\n", LIST)
    assert path.read_text() == "a,b\n1,2\n"
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]  # noqa: PTH208


def test_names_that_are_no_utf8_are_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "x", {"path": name, "é": 1})
    write_text(tmp_path / "y", name)
    assert (tmp_path / "x").read_text() == '{\n "path": "caf\\udce9",\n "\\u00e9": 1\n}\n'
    assert (tmp_path / "y").read_bytes() == b"caf\xe9"
    assert to_json({"é": 1}, indent=None) == '{"é": 1}'


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "for" / "it"

    def fail() -> None:
        with whole_directory(path) as draft:
            (draft / "page").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())  # nor what was made around it
    with whole_directory(path) as draft:
        (draft / "page").write_text("whole")
        assert not path.exists()
    assert [(p.name, (p / "page").read_text()) for p in path.parent.iterdir()] == [("it", "whole")]
    assert path.stat().st_mode == path.parent.stat().st_mode  # others may read it, as the umask has


@pytest.mark.parametrize("stays", [True, False])
def test_of_two_directories_the_first_stays_if_it_is_whole(tmp_path: Path, stays: bool) -> None:
    path = tmp_path / "index"
    with whole_directory(path, lambda there: stays == (there / "page").exists()) as second:
        with whole_directory(path) as first:
            (first / "page").write_text("first")
        (second / "page").write_text("second")
    assert (path / "page").read_text() == ("first" if stays else "second")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_draft_is_left_alone_where_nobody_can_tell_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without locks."""

    def no_locks(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("product_mil.files.whole.fcntl.flock", no_locks)
    with whole_directory(tmp_path / "a") as first, whole_directory(tmp_path / "b"):
        (first / "page").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
