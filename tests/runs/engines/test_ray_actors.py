"""Prediction by actors of Ray, which are killed; skipped where Ray is not installed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import bson
import pytest

from product_mil.errors import UserError
from product_mil.runs.engines.ray_actors import ray_engine, refuse_unreachable
from product_mil.runs.predict_units import Job, UnitPredictor, followed
from product_mil.runs.units import Unit, units_of
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT

UNITS = 8


@pytest.fixture
def data(sample: SampleFiles, tmp_path: Path) -> str:
    records = bson.decode_all(sample.train.read_bytes())
    (tmp_path / "data").mkdir()
    for number in range(UNITS):
        encoded = b"".join(map(bson.encode, records[number::UNITS]))
        (tmp_path / "data" / f"{number}.bson").write_bytes(encoded)
    return str(tmp_path / "data" / "*.bson")


def files_in(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def by_hand(trained: Path, data: str, tmp_path: Path) -> tuple[list[Unit], dict[str, bytes]]:
    """The units, and the files that the engine here writes for them."""
    units = units_of(data)
    predictor = UnitPredictor(Job(trained, tmp_path / "here", 1000.0))
    predictor.begin(units)
    assert followed(predictor.outcomes(units), UNITS).predicted == UNITS
    return units, files_in(tmp_path / "here")


def test_without_ray_one_line_says_what_to_install(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = ray_engine(Job(trained, tmp_path, 1000.0), None, None, [])
    with pytest.raises(UserError, match=r"pip install 'product_mil\[ray\]'"), engine:
        pass


def test_an_address_where_nothing_listens_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"no cluster of Ray there: .*refused"):
            refuse_unreachable(address)
    for other in (None, "auto", "ray://head:10001"):
        refuse_unreachable(other)


# An actor that begins to note its second unit as done kills itself, once.
KILLED = """
import os, signal
from product_mil.runs.unit_files import UnitFiles

finish, count = UnitFiles.finish, 0

def killed(*arguments):
    global count
    count += 1
    if count == 2 and not os.path.exists("{marker}"):
        open("{marker}", "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    finish(*arguments)

UnitFiles.finish = killed
"""
SLOW = """
import time
from product_mil.runs.unit_files import UnitFiles

finish = UnitFiles.finish

def slow(*arguments):
    time.sleep(0.5)
    finish(*arguments)

UnitFiles.finish = slow
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_an_actor_is_killed_and_nothing_is_lost(trained: Path, data: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    units, wanted = by_hand(trained, data, tmp_path)
    (tmp_path / "killed.py").write_text(KILLED.format(marker=tmp_path / "marker"))
    job = Job(trained, tmp_path / "out", 1000.0)
    with ray_engine(job, None, 2, [tmp_path / "killed.py"]) as engine:
        assert engine.begin(units).endswith("by 2 actors of Ray")
        tally = followed(engine.outcomes(units), UNITS)
    assert (tmp_path / "marker").exists()
    assert tally == (UNITS, 0, {}, 0)
    assert files_in(tmp_path / "out") == wanted


@pytest.mark.slow
def test_the_driver_is_killed_and_the_same_command_goes_on(
    trained: Path, data: str, tmp_path: Path, cache_of_tests: Path
) -> None:
    pytest.importorskip("ray")
    _, wanted = by_hand(trained, data, tmp_path)
    output, slow = tmp_path / "out", tmp_path / "slow.py"
    slow.write_text(SLOW)
    command = [
        sys.executable, "-m", "product_mil", "predict-files", "--workdir", trained, "--data", data,
        "--output", output, "--engine", "ray", "--workers", "1", "--unique_ids",
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PRODUCT_MIL_CACHE": str(cache_of_tests),
    }  # fmt: skip
    with subprocess.Popen([*command, "--import", slow], env=environment) as process:
        while not (output / "done").is_dir() or len(list((output / "done").iterdir())) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (output / "manifest.json").exists()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    done_before = int(ended.stdout.partition(", done before: ")[2].split()[0])
    assert 2 <= done_before < UNITS
    (output / "manifest.json").unlink()
    assert files_in(output) == wanted


CLUSTER = """
import subprocess, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
command = [sys.executable, "-m", "product_mil", *sys.argv[1:], "--address", cluster.address]
status = subprocess.run(command).returncode
cluster.shutdown()
sys.exit(status)
"""


@pytest.mark.slow
def test_on_a_cluster_each_host_has_an_actor(
    trained: Path, data: str, tmp_path: Path, cache_of_tests: Path
) -> None:
    pytest.importorskip("ray")
    _, wanted = by_hand(trained, data, tmp_path)
    command = [
        sys.executable, "-c", CLUSTER, "predict-files", "--engine", "ray", "--workdir", trained,
        "--data", "data/*.bson", "--output", "out", "--merge", "all.csv",
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PRODUCT_MIL_CACHE": str(cache_of_tests),
    }  # fmt: skip
    said = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert ", by 2 actors of Ray\n" in said.stdout
    found = files_in(tmp_path / "out")
    submissions = [name for name in wanted if name.startswith("csv")]
    assert len(submissions) == UNITS
    assert all(found[name] == wanted[name] for name in submissions)
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + 120
