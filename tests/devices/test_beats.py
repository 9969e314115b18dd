"""Who of several processes is gone, by the files in which each one shows that it works."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from product_mil.devices import beats
from product_mil.devices.beats import Beats, watched
from product_mil.devices.hosts import Share

OTHER = "another-host"  # whose processes are known by their files alone


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(beats, "time", found)
    return found


def pair(directory: Path) -> tuple[Beats, Beats]:
    first, second = (Beats(directory, Share(number, 2)) for number in (0, 1))
    return first, second


def test_a_killed_process_of_this_host_is_noticed_at_once(tmp_path: Path) -> None:
    """Also while its parent did not ask for its end, so that the system still lists it."""
    program = "import sys, time; print(flush=True); time.sleep(60)"
    first, second = pair(tmp_path)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lines = (tmp_path / "1").read_text().splitlines()
        lines[2] = str(child.pid)
        (tmp_path / "1").write_text("\n".join(lines))
        assert first.lost() is None
        child.kill()
        until = time.monotonic() + 10
        while (line := first.lost()) is None and time.monotonic() < until:
            time.sleep(0.01)
        assert line == f"process 1 ({socket.gethostname()}, process id {child.pid}) was killed"
    # A process id of another host says nothing here.
    lines[1] = OTHER
    (tmp_path / "1").write_text("\n".join(lines))
    assert first.lost() is None
    second.beat()
    assert first.lost() is None


def test_a_process_that_beats_is_not_lost(tmp_path: Path, clock: Clock) -> None:
    first, second = pair(tmp_path)
    for _ in range(10):
        clock.now += 20
        second.beat()
        assert first.lost() is None


def test_a_silent_process_is_named(tmp_path: Path, clock: Clock) -> None:
    first, second = pair(tmp_path)
    second.beat()
    assert first.lost() is None
    clock.now = 29
    assert first.lost() is None
    clock.now = 31
    line = first.lost()
    assert line is not None
    assert line.startswith("process 1 (")
    assert line.endswith("was not heard of for 31 s")
    second.beat()
    assert first.lost() is None, "it was only slow"


def test_a_process_that_never_came_is_named(tmp_path: Path, clock: Clock) -> None:
    first = Beats(tmp_path, Share(0, 3))
    clock.now = 40
    line = first.lost()
    assert line == "process 1 was not heard of for 40 s; process 2 was not heard of for 40 s"


def test_a_failure_is_told_at_once_with_its_reason(tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    second.end("failed: a.bson, byte 17: no image")
    line = first.lost()
    assert line is not None
    assert line.endswith(") failed: a.bson, byte 17: no image")


def test_a_process_that_ended_well_is_not_lost(tmp_path: Path, clock: Clock) -> None:
    first, second = pair(tmp_path)
    second.end("ended")
    assert first.lost() is None
    clock.now = 1000
    assert first.lost() is None


def test_a_file_that_is_being_written_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    first, _ = pair(tmp_path)
    assert first.lost() is None
    (tmp_path / "1").write_bytes(b"")
    clock.now = 31
    line = first.lost()
    assert line is not None
    assert "process 1 (" in line, "it is named as before"


def test_one_process_alone_watches_nobody(tmp_path: Path) -> None:
    with watched(tmp_path / "hosts"):
        assert not (tmp_path / "hosts").exists()
