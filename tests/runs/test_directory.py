"""A run's directory: refused where it is not ours, locked while it trains, reported if damaged."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import product_mil
from product_mil.config import Config, config_from_dict
from product_mil.errors import UserError
from product_mil.runs.directory import (
    CONFIG_FILE,
    LOCK_FILE,
    RUN_FILE,
    refuse_newer_run,
    stored_config,
    training_in,
)
from product_mil.train.record import FORMAT, marked


def refused(workdir: Path) -> str:
    """The one line with which a directory is refused; nothing in it may have changed."""
    with pytest.raises(UserError) as caught, training_in(workdir):
        pytest.fail("was not refused")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def begin(workdir: Path) -> None:
    (workdir / CONFIG_FILE).write_text(json.dumps(marked(Config().to_dict())))


def test_what_is_made_is_removed_where_no_run_began(tmp_path: Path) -> None:
    workdir = tmp_path / "a" / "b" / "c"
    with training_in(workdir):
        assert workdir.is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with training_in(workdir):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    with training_in(workdir):
        begin(workdir)
    assert {path.name for path in workdir.iterdir()} == {CONFIG_FILE, LOCK_FILE}
    assert (workdir / LOCK_FILE).read_bytes() == b""
    assert config_from_dict(json.loads((workdir / CONFIG_FILE).read_bytes())) == Config()


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "log.txt"], ["config.json.draft"]])
def test_an_empty_directory_and_what_a_killed_start_left(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_text("process 1 on another machine")
    with training_in(tmp_path):
        begin(tmp_path)
    with training_in(tmp_path):
        pass


@pytest.mark.parametrize("name", ["train.bson", "notes", ".git", "checkpoints", "metrics.jsonl"])
def test_a_directory_of_other_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    line = refused(tmp_path)
    assert f"holds other files and no run ({name}" in line
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    assert "is no directory" in refused(tmp_path / "file")
    assert "is no directory" in refused(tmp_path / "file" / "run")
    assert "is no directory" in refused(tmp_path / "pipe")
    assert "is no directory" in refused(Path("/dev/null"))
    assert "is a link to nowhere" in refused(tmp_path / "nowhere")
    assert "circle" in refused(tmp_path / "circle")
    assert "File name too long" in refused(tmp_path / ("x" * 256))
    assert "File name too long" in refused(tmp_path / ("x/" * 3000))
    assert "cannot write to /proc" in refused(Path("/proc/run"))
    assert sorted(tmp_path.iterdir()) == before


def test_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with training_in(tmp_path / "link"):
        assert "is being trained in" in refused(tmp_path / "real")
        begin(tmp_path / "link")
    assert stored_config(tmp_path / "real") == json.loads(json.dumps(Config().to_dict()))


def test_the_second_one_learns_of_the_first(tmp_path: Path) -> None:
    with training_in(tmp_path / "run"):
        line = refused(tmp_path / "run")
        assert f"process {os.getpid()} on {socket.gethostname()}" in line
        assert "choose another --workdir" in line
    with training_in(tmp_path / "run"):
        pass


HOLD = """
import sys
from pathlib import Path
from product_mil.runs.directory import training_in
with training_in(Path(sys.argv[1])):
    print("holds it", flush=True)
    sys.stdin.read()
"""


def test_another_process_and_its_death(tmp_path: Path) -> None:
    begin(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(product_mil.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds it\n"
        assert f"process {process.pid} on " in refused(tmp_path)
        process.kill()
        process.wait()
        with training_in(tmp_path):  # what its owner left there is of no account
            assert f"process {os.getpid()}" in (tmp_path / LOCK_FILE).read_text()


def test_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Read-only file system; choose another --workdir" in refused(tmp_path)


DAMAGED = [b"", b"{", b"\0" * 100, b"\xff\xfe", b"[]", b'"x"', b"null", b"[" * 100_000]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_records(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is damaged") as caught:
        stored_config(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / RUN_FILE).write_text(json.dumps({"config": Config(name="kept").to_dict()}))
    with pytest.raises(UserError, match=r"remove it: run\.json holds the configuration too"):
        stored_config(tmp_path)
    (tmp_path / CONFIG_FILE).unlink()  # as it says
    assert stored_config(tmp_path) == json.loads(json.dumps(Config(name="kept").to_dict()))
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        stored_config(tmp_path)
    refuse_newer_run(tmp_path)  # whoever only reads needs neither


def test_the_configuration_of_something_else(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('{"architectures": ["Bert"]}')
    with pytest.raises(UserError, match="is no run's"):
        stored_config(tmp_path)


@pytest.mark.parametrize("name", [CONFIG_FILE, RUN_FILE])
@pytest.mark.parametrize("number", [FORMAT + 1, 99, -1, "2", None, 1.5, [1]])
def test_unknown_formats(name: str, number: Any, tmp_path: Path) -> None:
    config = Config().to_dict()
    (tmp_path / RUN_FILE).write_text(json.dumps(marked({"config": config})))
    (tmp_path / CONFIG_FILE).write_text(json.dumps(marked(config)))
    refuse_newer_run(tmp_path)
    assert stored_config(tmp_path) == json.loads(json.dumps(config))
    record = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**record, "format": number, "version": "9.1"}))
    with pytest.raises(UserError, match=r"written by product_mil 9\.1") as caught:
        refuse_newer_run(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_of_before_there_was_a_number(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(json.dumps(Config().to_dict()))
    (tmp_path / RUN_FILE).write_text(json.dumps({"data_fingerprint": "x"}))
    refuse_newer_run(tmp_path)
    assert stored_config(tmp_path) == json.loads(json.dumps(Config().to_dict()))
