"""What several processes do, as far as one can show it; tests/end_to_end/test_hosts.py has two."""

import re
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.devices import hosts
from product_mil.devices.mesh import data_mesh, fetch, own_devices, put_batch
from product_mil.errors import HostLost, UserError


def test_one_process_gets_what_it_gave() -> None:
    columns = {"a": np.arange(3.0)}
    assert hosts.from_first("é") == "é"
    assert hosts.gathered("x") == ["x"]
    assert hosts.largest(-3) == -3
    assert hosts.summed(columns)["a"] is columns["a"]
    assert hosts.by_the_first(lambda: 5) == 5
    assert hosts.first_before_others(lambda: 6) == 6
    assert hosts.own_share() == (0, 1)
    agreement = hosts.Agreement(data_mesh(4))
    assert [agreement.largest(value) for value in (0, 7, 0)] == [0, 7, 0]
    assert agreement.settle() == 0


def test_work_of_the_first_alone_is_done_once() -> None:
    calls: list[int] = []
    hosts.first_before_others(lambda: calls.append(1))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("coordinator", "number", "wrong"),
    [
        ("here", 0, "--coordinator=here: must be the host of process 0 and a port"),
        ("here:", 0, "--coordinator=here:"),
        ("here:0", 0, "--coordinator=here:0"),
        ("here:99999", 0, "--coordinator=here:99999"),
        ("here:1234", 2, "--process_id=2: must be from 0 to 1"),
        ("here:1234", -1, "--process_id=-1: must be from 0 to 1"),
    ],
)
def test_wrong_numbers_are_refused(coordinator: str, number: int, wrong: str) -> None:
    with pytest.raises(UserError, match=re.escape(wrong)):
        hosts.join(coordinator, 2, number)


def test_a_port_in_use_is_refused() -> None:
    """JAX would crash there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"process 0 cannot listen at this port .*another one"):
            hosts.join(address, 2, 0)


WAITING = """
import logging, sys, time
from product_mil.devices import hosts
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
hosts.NEWS_AFTER_S, hosts.JOIN_WITHIN_S = 0.1, 1
with hosts._patiently("process 0 of 2 could not join"):
    print("in time", flush=True)
with hosts._patiently("process 0 of 2 could not join"):
    time.sleep(20)
"""


def test_who_waits_says_so_and_ends_after_a_while() -> None:
    found = subprocess.run(
        [sys.executable, "-c", WAITING], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == HostLost.STATUS
    lines = found.stdout.splitlines()
    assert lines[0] == "in time"
    assert lines[1].startswith("waits for the other processes")
    assert len(lines) == 2
    assert found.stderr == "error: process 0 of 2 could not join: not all came in 1 s\n"


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, False),
    ],
)
def test_a_process_alone_on_its_host_takes_all_its_gpus(
    environment: dict[str, str], alone: bool
) -> None:
    assert hosts._is_alone_on_its_host(environment) is alone


@pytest.mark.parametrize(("visible", "gpus"), [("0,1,2,3", [0, 1, 2, 3]), ("5", [0]), ("", [0])])
def test_gpus_of_a_host(visible: str, gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hosts._all_gpus() == gpus


class Asked(Exception):
    pass


def test_a_launcher_is_asked_for_all_but_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def initialize(**arguments: Any) -> None:
        given.update(arguments)
        raise Asked

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(Asked):
        hosts.join_by_launcher()
    assert given["local_device_ids"] == [0, 1]
    assert "coordinator_address" not in given


def test_without_a_launcher_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(**_: Any) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=r"no launcher is known here.*--coordinator"):
        hosts.join_by_launcher()


def test_shards_come_back_in_order() -> None:
    mesh = data_mesh(4)
    batch = np.arange(24).reshape(8, 3)
    sent = put_batch(jnp.asarray(batch), mesh)
    np.testing.assert_array_equal(fetch(sent, 0), batch)
    np.testing.assert_array_equal(fetch(jax.jit(jnp.transpose)(sent), 1), batch.T)
    assert own_devices(mesh) is mesh
