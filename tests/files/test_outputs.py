"""Drafts: whole or not at all, apart from each other, and cleared away after a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from product_mil.errors import UserError
from product_mil.files.outputs import (
    Draft,
    Kind,
    check_output,
    csv_with_header,
    draft_directory,
    to_json,
    whole,
    write_json,
    write_text,
)

LIST = Kind("a list", (".csv", ".csv.gz"), csv_with_header(("a", "b")))
BOX = Kind("a box", (), lambda path: (path / "lid").exists())


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
        "import os, signal; from pathlib import Path; from product_mil.files.outputs import *\n"
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


def test_directories(tmp_path: Path) -> None:
    box = tmp_path / "box"
    check_output(box, BOX)
    box.mkdir()
    check_output(box, BOX)
    (tmp_path / "linked").symlink_to(box)
    check_output(tmp_path / "linked", BOX)
    (box / "mine").touch()
    with pytest.raises(UserError, match="holds other files and is not a box"):
        check_output(box, BOX)
    (box / "lid").touch()
    check_output(box, BOX)
    with pytest.raises(UserError, match="is a file: name a directory"):
        check_output(box / "lid", BOX)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directories_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match=r"cannot write .*x\.csv: Permission denied"):
        check_output(tmp_path / "x.csv", LIST)
