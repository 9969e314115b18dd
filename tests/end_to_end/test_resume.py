"""Whole runs, killed and started again by the same command: the same numbers to the last bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.runs.opening import open_run
from product_mil.sources.sample.draw import SampleFiles
from product_mil.train.log import RunLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TIMING = ("train/images_per_s", "train/products_per_s", "train/wait_share")
PATIENCE_S = 400


class Runs:
    """Starts the same small run in several directories."""

    def __init__(self, sample: SampleFiles, cache: Path) -> None:
        self._environment = {
            **os.environ,
            "PRODUCT_MIL_CACHE": str(cache),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
        }
        self._command = [
            sys.executable,
            "-m",
            "product_mil.main",
            "--config=configs/joint.py:smoke",
            f"--config.data.train={sample.train}",
            f"--config.data.categories={sample.categories}",
            "--config.checkpoint_every_s=0.05",
            "--config.finetune.ema_decay=0.9",
        ]

    def start(self, workdir: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(self, workdir: Path) -> str:
        process = self.start(workdir)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        return output

    def stop_when(self, workdir: Path, moment: Callable[[Path], Any], number: int) -> int:
        """Send the signal as soon as the moment has come; the exit status."""
        process = self.start(workdir)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and not moment(workdir):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before its moment"
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        return process.returncode


def result(workdir: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Metrics without the clock, and all parameters and statistics."""
    rows = [
        {key: value for key, value in row.items() if key not in TIMING}
        for row in RunLog(workdir).metrics()
    ]
    model = open_run(workdir).model
    leaves = {**model.parameters, **model.statistics}
    return rows, {path: np.asarray(leaf) for path, leaf in leaves.items()}


def assert_equal(a: Any, b: Any) -> None:
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for path, leaf in a[1].items():
        np.testing.assert_array_equal(leaf, b[1][path], err_msg=path)


@pytest.fixture(scope="module")
def runs(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(sample, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    runs.finish(workdir)
    return workdir


def lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def checkpoints(workdir: Path, stage: str) -> list[str]:
    directory = workdir / "checkpoints" / stage
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def saving(stage: str) -> Callable[[Path], bool]:
    """A save of this stage is under way."""
    return lambda workdir: any(not name.isdigit() for name in checkpoints(workdir, stage))


MOMENTS: dict[str, Callable[[Path], Any]] = {
    "claimed": lambda workdir: (workdir / "config.json").exists(),
    "head starts": lambda workdir: (workdir / "checkpoints" / "head").is_dir(),
    "head saves": saving("head"),
    "head evaluated": lambda workdir: lines(workdir) >= 1,
    "finetune starts": lambda workdir: (workdir / "checkpoints" / "finetune").is_dir(),
    "finetune saves": saving("finetune"),
    "finetune has saved": lambda workdir: any(map(str.isdigit, checkpoints(workdir, "finetune"))),
    "finetune evaluated": lambda workdir: lines(workdir) >= 3,
}


def test_both_stages_ran(whole: Path) -> None:
    rows, _ = result(whole)
    assert [row["stage"] for row in rows] == ["head", "head", "finetune", "finetune"]


def test_killed_at_many_moments(runs: Runs, whole: Path, tmp_path: Path) -> None:
    """One run, killed again and again on its way, loses nothing."""
    for name, moment in MOMENTS.items():
        status = runs.stop_when(tmp_path / "run", moment, signal.SIGKILL)
        assert status == -signal.SIGKILL, name
    runs.finish(tmp_path / "run")
    assert_equal(result(tmp_path / "run"), result(whole))


@pytest.mark.parametrize("name", ["head saves", "finetune saves", "finetune evaluated"])
def test_killed_once(runs: Runs, whole: Path, name: str, tmp_path: Path) -> None:
    runs.stop_when(tmp_path / "run", MOMENTS[name], signal.SIGKILL)
    runs.finish(tmp_path / "run")
    assert_equal(result(tmp_path / "run"), result(whole))


@pytest.mark.parametrize("name", ["head has saved", "finetune has saved"])
def test_asked_to_stop(runs: Runs, whole: Path, name: str, tmp_path: Path) -> None:
    stage = name.split(maxsplit=1)[0]

    def moment(workdir: Path) -> bool:
        return any(map(str.isdigit, checkpoints(workdir, stage)))

    status = runs.stop_when(tmp_path / "run", moment, signal.SIGTERM)
    assert status == 143
    output = runs.finish(tmp_path / "run")
    assert "goes on at step" in output
    assert_equal(result(tmp_path / "run"), result(whole))


def test_the_terminal_closed(runs: Runs, whole: Path, tmp_path: Path) -> None:
    status = runs.stop_when(tmp_path / "run", lambda w: lines(w) >= 3, signal.SIGHUP)
    assert status == 129
    assert "goes on at step" in runs.finish(tmp_path / "run")
    assert_equal(result(tmp_path / "run"), result(whole))


def test_two_at_once(runs: Runs, whole: Path, tmp_path: Path) -> None:
    """Whenever the second one comes, it is refused, and the first ends as it would alone."""
    workdir = tmp_path / "run"
    first = runs.start(workdir)
    try:
        while not (workdir / "lock").exists():
            time.sleep(0.05)
        second = runs.start(workdir)
        output, _ = second.communicate(timeout=PATIENCE_S)
    finally:
        printed, _ = first.communicate(timeout=PATIENCE_S)
    assert second.returncode == 2
    assert f"is being trained in by process {first.pid} on " in output.splitlines()[-1]
    assert "Traceback" not in output
    assert first.returncode == 0, printed
    assert_equal(result(workdir), result(whole))


@pytest.mark.parametrize("stages", [("finetune",), ("head",), ("head", "finetune")])
def test_damaged_checkpoints(
    runs: Runs, whole: Path, stages: tuple[str, ...], tmp_path: Path
) -> None:
    """A flipped bit in the newest of a stage, after the end."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for stage in stages:
        newest = max((int(n) for n in checkpoints(workdir, stage)), default=0)
        directory = workdir / "checkpoints" / stage / str(newest)
        path = max(directory.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    opened = open_run(workdir)
    last = max(int(n) for n in checkpoints(whole, "finetune"))
    assert (opened.stage, opened.step < last) == ("finetune", "finetune" in stages)
    output = runs.finish(workdir)
    assert ("is damaged (" in output) == ("finetune" in stages)
    assert_equal(result(workdir), result(whole))
    # The head's is not needed, and so not looked at.
    set_aside = [path.parent.name for path in workdir.glob("checkpoints/*/damaged-*")]
    assert set_aside == ["finetune"] * ("finetune" in stages)


def test_every_checkpoint_damaged(runs: Runs, whole: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for path in workdir.glob("checkpoints/*/*/_CHECKPOINT_METADATA"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="no checkpoint of it is whole"):
        open_run(workdir)
    assert "the stage begins anew" in runs.finish(workdir)
    assert_equal(result(workdir), result(whole))


def test_a_finished_run_changes_nothing_and_prints_its_table(runs: Runs, whole: Path) -> None:
    def files() -> dict[str, bytes]:
        return {
            str(path.relative_to(whole)): path.read_bytes()
            for path in sorted(whole.rglob("*"))
            if path.is_file() and path.name not in ("log.txt", "curves.png")
        }

    before = files()
    output = runs.finish(whole)
    assert files() == before
    assert "validation after the last step" in output
    assert "next: product-mil " in output
