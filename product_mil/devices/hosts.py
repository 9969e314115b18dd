"""Several processes that train one run, on one or more hosts: how they join, share and agree.

With one process, which is the rule, every function here returns at once what it was given. Where
there are more, all of them have to call these functions in the same order, since each call waits
for the others.
"""

import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from product_mil.devices.mesh import data_mesh, put_batch
from product_mil.errors import HostLost, UserError

T = TypeVar("T")

JOIN_WITHIN_S = 300
NEWS_AFTER_S = 10
STEPS_LATER = 2  # an agreement is read this many steps after it was asked for, as losses are
# JAX ends a process that misses another one for so long. `beats` says it earlier, and in words.
_HEARTBEAT_TIMEOUT_S = 100


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Make this process one of several that train together. JAX must not have started.

    `coordinator` is the host of process 0 and a port there, such as `10.0.0.1:1234`.

    Raises:
        UserError: the numbers make no sense, or the others could not be reached in 5 minutes.
    """
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(
            f"--coordinator={coordinator}: must be the host of process 0 and a port, such as "
            "10.0.0.1:1234"
        )
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: must be from 0 to {num_processes - 1}, as there are "
            f"--num_processes={num_processes}"
        )
    # On this host alone the port is not opened to the network; JAX opens it on all addresses.
    if host in ("localhost", "127.0.0.1"):
        os.environ.setdefault("JAX_COORDINATOR_BIND_ADDRESS", coordinator)
    if process_id == 0:
        _refuse_used_port(coordinator)
    _initialize(
        f"process {process_id} of {num_processes} could not join the others at {coordinator}",
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        cluster_detection_method="deactivate",
    )


def join_by_launcher() -> None:
    """Join the processes that SLURM, Open MPI or Kubernetes started together.

    Raises:
        UserError: none of them did, or the others could not be reached.
    """
    devices = _all_gpus() if _is_alone_on_its_host(os.environ) else None
    _initialize("--distributed: the other processes could not be joined", local_device_ids=devices)


def _is_alone_on_its_host(environment: Mapping[str, str]) -> bool:
    """Whether the launcher started a single process on each host, which then takes all its GPUs.

    JAX would take one GPU for a process, which is right where there is a process for each.
    """
    of_slurm = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]  # as in 1(x4)
    return "1" in (of_slurm, environment.get("OMPI_COMM_WORLD_LOCAL_SIZE"))


def _all_gpus() -> list[int]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = Path("/proc/driver/nvidia/gpus")
    if visible is not None:
        number = len([device for device in visible.split(",") if device.strip()])
    else:
        number = len(list(known.iterdir())) if known.is_dir() else 0
    return list(range(max(number, 1)))


def _refuse_used_port(coordinator: str) -> None:
    """Refuse a port at which JAX could not listen, where it would crash."""
    listening = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f":{coordinator.rpartition(':')[2]}")
    host, _, port = listening.rpartition(":")
    try:
        socket.create_server((host.strip("[]"), int(port))).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--coordinator={coordinator}: process 0 cannot listen at this port ({reason}); choose "
            "another one for all processes"
        ) from None


@contextmanager
def _patiently(failed: str) -> Iterator[None]:
    """Say that others are waited for, and after a while end, where JAX would abort the process."""
    logger = logging.getLogger(__name__)
    news = f"waits for the other processes; they have {JOIN_WITHIN_S // 60} minutes to start"
    timers = [
        threading.Timer(NEWS_AFTER_S, logger.warning, [news]),
        threading.Timer(JOIN_WITHIN_S, leave, [f"{failed}: not all came in {JOIN_WITHIN_S} s"]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def leave(line: str) -> None:
    """End the process at once with a line on standard error, where nothing can be raised."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"error: {line}\n")
        sys.stderr.flush()
    os._exit(HostLost.STATUS)


def _initialize(failed: str, **given: Any) -> None:
    try:
        with _patiently(failed):
            jax.distributed.initialize(
                initialization_timeout=2 * JOIN_WITHIN_S,
                heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
                **given,
            )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if "coordinator_address" not in given and isinstance(error, ValueError):
            raise UserError(
                "--distributed: no launcher is known here (srun, mpirun or a Kubernetes Job say "
                f"who takes part): {reason} Give --coordinator, --num_processes and --process_id"
            ) from None
        raise UserError(f"{failed}: {reason}") from None
    _meet()


def _meet() -> None:
    """Connect all devices now, while no process is late: on CPUs they wait for 30 s only."""
    of_each = np.zeros(jax.local_device_count(), np.int32)
    _largest(put_batch(of_each, data_mesh(jax.device_count()))).block_until_ready()
    largest(0)


def are_several() -> bool:
    """Whether more than one process takes part."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes what all of them find."""
    return jax.process_index() == 0


class Share(NamedTuple):
    """A process's part of the work, which is divided evenly."""

    number: int
    of: int


def own_share() -> Share:
    """The part of this process."""
    return Share(jax.process_index(), jax.process_count())


def from_first(text: str) -> str:
    """The text that process 0 has."""
    if not are_several():
        return text
    return gathered(text if is_first() else "")[0]


def gathered(text: str) -> list[str]:
    """The text of each process, in their order."""
    if not are_several():
        return [text]
    written = text.encode("utf-8", "surrogateescape")
    sizes = multihost_utils.process_allgather(np.asarray(len(written), np.int32)).tolist()
    # A power of two, so that few programs are compiled.
    room = np.zeros(1 << max(max(sizes) - 1, 1).bit_length(), np.uint8)
    room[: len(written)] = np.frombuffer(written, np.uint8)
    found = multihost_utils.process_allgather(room)
    return [
        row[:size].tobytes().decode("utf-8", "surrogateescape")
        for row, size in zip(found, sizes, strict=True)
    ]


def by_the_first(work: Callable[[], T]) -> T | None:
    """Let process 0 work while the others wait; these get None.

    Raises:
        UserError: as `work` does, in all processes.
    """
    if not are_several():
        return work()
    found, error = None, None
    if is_first():
        try:
            found = work()
        except UserError as raised:
            error = raised
    text = from_first("" if error is None else str(error))
    if text:
        raise error or UserError(text)
    return found


def first_before_others(work: Callable[[], T]) -> T:
    """Let process 0 work before all others do the same, which find what it has left in the cache.

    Raises:
        UserError: as `work` does.
    """
    found = by_the_first(work)
    return cast(T, found) if is_first() else work()


def largest(value: int) -> int:
    """The largest value that a process has."""
    if not are_several():
        return value
    return int(multihost_utils.process_allgather(np.asarray(value, np.int32)).max())


def summed(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sums over processes of columns, of which each process has filled other rows.

    They are gathered as bytes, because JAX would round 64 bits to 32.
    """
    if not are_several():
        return dict(columns)
    found = {}
    for name, column in columns.items():
        own = np.ascontiguousarray(column)
        gathered_bytes = multihost_utils.process_allgather(own.reshape(-1).view(np.uint8))
        of_each = np.ascontiguousarray(gathered_bytes).view(own.dtype)
        of_each = of_each.reshape(jax.process_count(), *own.shape)
        found[name] = of_each.any(0) if own.dtype == bool else of_each.sum(0, dtype=own.dtype)
    return found


class Agreement:
    """What all processes do in the same step, because one of them asks for it.

    To wait for all at each step would slow them down, so the answer comes `STEPS_LATER`. One
    process alone gets it at once.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._waiting: deque[jax.Array] = deque()

    def largest(self, value: int) -> int:
        """The largest value that a process gave some steps ago; 0 in the first steps."""
        if not are_several():
            return value
        own = np.full(jax.local_device_count(), value, np.int32)
        self._waiting.append(_largest(put_batch(own, self._mesh)))
        return int(self._waiting.popleft()) if len(self._waiting) > STEPS_LATER else 0

    def settle(self) -> int:
        """The largest value among the answers that are still to come; 0 without any."""
        found = max((int(value) for value in self._waiting), default=0)
        self._waiting.clear()
        return found


@jax.jit
def _largest(values: jax.Array) -> jax.Array:
    return values.max()
