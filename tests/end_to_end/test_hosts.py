"""Two processes that train one run: as one would, and whatever happens to one of them."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from product_mil.errors import HostLost
from product_mil.sources.sample.draw import SampleFiles
from product_mil.train.log import RunLog
from tests.end_to_end.test_resume import assert_equal, result

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 400
WITHIN_S = 60  # the others of a process that is gone end by then
KILLS = int(os.environ.get("PRODUCT_MIL_TEST_KILLS", "0"))  # .ci/long asks for 20
LOST = HostLost.STATUS


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Group:
    """The processes of one start of a run."""

    def __init__(
        self,
        command: list[str],
        cache: Path,
        workdir: Path,
        *,
        count: int,
        own_flags: Sequence[tuple[str, ...]] = (),
    ) -> None:
        # Compiled as conftest.py does it.
        flags = (
            f"--xla_force_host_platform_device_count={4 // count}",
            "--xla_backend_optimization_level=0",
            "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        )
        environment = {
            **os.environ,
            "PRODUCT_MIL_CACHE": str(cache),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": " ".join(flags),
        }
        port = free_port()
        own_flags = own_flags or [()] * count
        together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
        self.workdir, self.outputs = workdir, []
        self.processes = []
        for number in range(count):
            own = [*together, f"--process_id={number}"] if count > 1 else []
            self.outputs.append(workdir.with_name(f"{workdir.name}-{port}-{number}.txt"))
            with self.outputs[-1].open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*command, f"--workdir={workdir}", *own, *own_flags[number]],
                        cwd=ROOT,
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self, within_s: float = PATIENCE_S) -> list[int]:
        """The exit statuses."""
        until = time.monotonic() + within_s
        try:
            return [of.wait(max(until - time.monotonic(), 0.01)) for of in self.processes]
        finally:
            for of in self.processes:
                of.kill()

    def said(self, number: int) -> str:
        return self.outputs[number].read_text(errors="replace")

    def wait_until(self, moment: Callable[[Path], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not moment(self.workdir):
            over = [of.poll() for of in self.processes if of.poll() is not None]
            assert not over, self.said(0) + self.said(-1)
            assert time.monotonic() < until
            time.sleep(0.005)


Start = Callable[..., Group]


def saved(stage: str, step: int) -> Callable[[Path], bool]:
    """Whether a checkpoint of this step or a later one is there."""

    def is_saved(workdir: Path) -> bool:
        directory = workdir / "checkpoints" / stage
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
        return any(int(name) >= step for name in names if name.isdecimal())

    return is_saved


@pytest.fixture(scope="module")
def start(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Start:
    cache = tmp_path_factory.mktemp("cache")
    # An image that cannot be read; its product has others.
    content = bytearray(sample.train.read_bytes())
    at = content.index(b"\xff\xd8\xff", 2000)
    content[at : at + 3] = b"xyz"
    train = cache / "train.bson"
    train.write_bytes(content)
    command = [
        sys.executable,
        "-m",
        "product_mil.main",
        "--config=configs/joint.py:smoke",
        f"--config.data.train={train}",
        f"--config.data.categories={sample.categories}",
        "--config.checkpoint_every_s=0.05",
        "--config.finetune.ema_decay=0.9",
        "--config.finetune.augment.crop=0.3",
        "--config.head.epochs=6",
        "--config.finetune.epochs=6",
    ]

    def started(workdir: Path, *more: str, count: int = 2, **own: Any) -> Group:
        return Group([*command, *more], cache, workdir, count=count, **own)

    return started


@pytest.fixture(scope="module")
def one(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    group = start(workdir, count=1)
    assert group.wait() == [0], group.said(0)
    return workdir


@pytest.fixture(scope="module")
def two(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run of two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    group = start(workdir)
    assert group.wait() == [0, 0], group.said(0) + group.said(1)
    # One of them reports.
    assert "4 cpu device(s) of 2 processes" in group.said(0)
    assert "step" not in group.said(1)
    return workdir


def assert_alike(a: Path, b: Path) -> None:
    """The same run, as far as the order of sums allows."""
    rows, others = RunLog(a).metrics(), RunLog(b).metrics()
    assert [(row["stage"], row["step"]) for row in rows] == [
        (row["stage"], row["step"]) for row in others
    ]
    for row, other in zip(rows, others, strict=True):
        for name in ("train/loss", "valid/nll"):
            assert row[name] == pytest.approx(other[name], rel=2e-4), (row["stage"], row["step"])
        assert row["valid/products"] == other["valid/products"]


def test_two_processes_train_as_one(one: Path, two: Path) -> None:
    assert_alike(one, two)
    listed = {of: (of / "bad_records.csv").read_text().splitlines() for of in (one, two)}
    assert len(listed[one]) == 2, "the image that cannot be read"
    assert sorted(listed[one]) == sorted(listed[two])
    assert not (two / "hosts").exists()


def test_a_run_goes_on_with_other_processes(one: Path, start: Start, tmp_path: Path) -> None:
    """Both ways: in the middle of the first stage, and in the middle of the second."""
    workdir = tmp_path / "run"
    group = start(workdir)
    group.wait_until(saved("head", 5))
    group.processes[1].terminate()
    assert group.wait() == [128 + signal.SIGTERM] * 2, group.said(0) + group.said(1)
    stopped = [group.said(number).splitlines()[-1] for number in (0, 1)]
    assert stopped[0] == stopped[1]
    assert stopped[0].startswith("stopped at step ")

    group = start(workdir, count=1)
    group.wait_until(saved("finetune", 5))
    group.processes[0].terminate()
    assert group.wait() == [128 + signal.SIGTERM]

    group = start(workdir)
    assert group.wait() == [0, 0], group.said(0) + group.said(1)
    assert "finetune: goes on at step" in group.said(0)
    assert_alike(one, workdir)


@pytest.mark.skipif(KILLS == 0, reason="takes minutes: .ci/long")
def test_killed_at_random_moments(two: Path, start: Start, tmp_path: Path) -> None:
    """Nothing is lost, and the end is that of the uninterrupted run to the last bit."""
    workdir, rng = tmp_path / "run", random.Random(0)
    kills = 0
    while True:
        group = start(workdir)
        victim = rng.randrange(2)
        if kills < KILLS:
            # Before the run begins there is nothing to lose, and others wait long for who is late.
            group.wait_until(lambda _, group=group: "  run: " in group.said(0))
            time.sleep(rng.uniform(0, 10))
            over = [of.poll() for of in group.processes]
            if over == [None, None]:
                group.processes[victim].kill()
                kills += 1
                statuses = group.wait(WITHIN_S)
                assert statuses[victim] == -signal.SIGKILL
                assert statuses[1 - victim] == LOST, group.said(1 - victim)
                assert f"error: process {victim} (" in group.said(1 - victim)
                continue
        assert group.wait() == [0, 0], group.said(0) + group.said(1)
        if kills >= KILLS:
            break
        subprocess.run(["rm", "-r", str(workdir)], check=True)  # finished before enough kills
    assert_equal(result(workdir), result(two))


def test_one_fails(start: Start, tmp_path: Path) -> None:
    """The reason is an error of use in the process that met it; the others name it."""
    fails = "--config.data.bad_images=fail"
    group = start(tmp_path / "run", "--config.head.epochs=0", fails)  # no image is read by both
    statuses = group.wait(PATIENCE_S)
    assert sorted(statuses) == [2, LOST], group.said(0) + group.said(1)
    failed = statuses.index(2)
    assert "bad_images=skip" in group.said(failed).splitlines()[-1]
    last = group.said(1 - failed).splitlines()[-1]
    assert last.startswith(f"error: process {failed} (")
    assert "bad_images=skip" in last


@pytest.mark.parametrize(
    ("own", "part"),
    [
        ("--config.head.learning_rate=0.5", "config.head.learning_rate is 0.5"),
        ("--workdir={directory}/other", "process 1 on {host} does not see in {directory}/other"),
    ],
)
def test_processes_that_were_started_otherwise(
    own: str, part: str, start: Start, tmp_path: Path
) -> None:
    """They would train something else, without a word."""
    own = own.format(directory=tmp_path)
    group = start(tmp_path / "run", own_flags=[(), (own,)])
    assert group.wait() == [2, 2], group.said(0) + group.said(1)
    for number in (0, 1):
        wanted = part.format(directory=tmp_path, host=socket.gethostname())
        assert wanted in group.said(number).splitlines()[-1]
    assert not list((tmp_path / "run").glob("*.json"))


@pytest.mark.parametrize("victim", range(min(KILLS, 2)))
def test_one_stands_still(victim: int, start: Start, tmp_path: Path) -> None:
    group = start(tmp_path / "run")
    group.wait_until(saved("head", 2))
    group.processes[victim].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert group.processes[1 - victim].wait(WITHIN_S) == LOST, group.said(1 - victim)
    assert time.monotonic() - began < WITHIN_S
    assert f"error: process {victim} (" in group.said(1 - victim)
    group.processes[victim].send_signal(signal.SIGCONT)
    assert group.wait()[victim] == LOST, group.said(victim)


JOINED = """
import os
from product_mil.devices import hosts
hosts.join_by_launcher()
import jax
number = os.environ["NUMBER"]
print(f"joined as {jax.process_index()}: {hosts.gathered(number)}", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "variables",
    [
        {
            "SLURM_JOB_ID": "4711",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "{number}",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        },
        {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "{number}",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        },
    ],
    ids=["slurm", "open-mpi"],
)
def test_launchers_are_asked(variables: dict[str, str]) -> None:
    """By the variables that they set, which are all that there is of them here."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED],
            cwd=ROOT,
            env={
                **os.environ,
                **{name: value.format(number=number) for name, value in variables.items()},
                "NUMBER": str(number),
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_PORT": port,
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for number in (0, 1)
    ]
    for number, process in enumerate(processes):
        output, _ = process.communicate(timeout=120)
        assert f"joined as {number}: ['0', '1']" in output
