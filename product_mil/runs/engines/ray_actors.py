"""Predict units by actors of Ray, each with a model of its own, on this machine or on a cluster.

The driver hands one unit at a time to each actor that is ready. If an actor is killed, its unit
goes to another one, and a new actor takes its place. If the driver is killed, the same command goes
on: units that are done are skipped. Ray Data would restart a whole pipeline for that, and hangs
where an actor of its pool dies in certain moments (docs/measured/scale.md).
"""

import os
import runpy
import socket
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from product_mil.errors import OutputError, UserError
from product_mil.runs.predict_units import Job, Outcome, UnitPredictor
from product_mil.runs.units import Unit

_MOST_DEATHS = 3  # of actors at one unit, or before any unit; then it is not chance


class _Worker:
    """An actor: errors for people are returned, because Ray adds pages to those that are raised."""

    def __init__(self, job: Job, directory: Path, imports: Sequence[Path]) -> None:
        self._job, self._directory, self._imports = job, directory, imports
        self._predictor: UnitPredictor | None = None

    def ready(self) -> UserError | None:
        """Open the run."""
        from product_mil.devices.runtime import configure_jax

        try:
            os.chdir(self._directory)
            for path in self._imports:
                runpy.run_path(str(path), run_name=path.stem)
            configure_jax()
            self._predictor = UnitPredictor(self._job)
        except UserError as error:
            return error
        return None

    def begin(self, units: Sequence[Unit]) -> str | UserError:
        """As `Engine` says."""
        try:
            return self._opened.begin(units)
        except UserError as error:
            return error

    def predict(self, unit: Unit) -> Outcome | UserError:
        """As `UnitPredictor` does."""
        try:
            return self._opened.predict(unit)
        except OutputError as error:
            return error

    @property
    def _opened(self) -> UnitPredictor:
        assert self._predictor is not None
        return self._predictor


class RayEngine:
    """Actors that predict units; `ray_engine` makes them."""

    def __init__(self, ray: Any, job: Job, workers: int | None, imports: Sequence[Path]) -> None:
        self._ray, self._job = ray, job
        gpus = int(ray.cluster_resources().get("GPU", 0))
        nodes = sum(node["Alive"] for node in ray.nodes())
        # An actor a GPU; or an actor a host, since JAX takes all its cores.
        options = {"num_gpus": 1 if gpus else 0, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(**options)(_Worker)
        self._new = lambda: actor.remote(job, Path.cwd(), imports)
        self._actors = [self._new() for _ in range(workers or gpus or nodes)]

    def begin(self, units: Sequence[Unit]) -> str:
        """As `Engine` says."""
        first = self._actors[0]
        for call in (first.ready.remote(), first.begin.remote(units)):
            found = self._ray.get(call)
            if isinstance(found, UserError):
                raise found
        return f"{found}, by {len(self._actors)} actors of Ray"

    def outcomes(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """As `Engine` says."""
        waiting, idle, deaths = deque(units), [], Counter[str]()
        # What each call is for: an actor that gets ready, or a unit that it predicts.
        calls: dict[Any, tuple[Any, Unit | None]] = {
            actor.ready.remote(): (actor, None) for actor in self._actors
        }
        while waiting or any(unit for _, unit in calls.values()):
            (call,), _ = self._ray.wait(list(calls), num_returns=1)
            actor, unit = calls.pop(call)
            try:
                found = self._ray.get(call)
            except self._ray.exceptions.RayActorError as error:
                name = unit.name if unit else ""
                deaths[name] += 1
                new = self._new()
                calls[new.ready.remote()] = new, None
                if unit is None and deaths[name] == _MOST_DEATHS:
                    raise UserError(f"actors of Ray end before they begin: {error}") from error
                if unit is not None and deaths[name] == _MOST_DEATHS:
                    reason = f"{_MOST_DEATHS} actors of Ray ended while they predicted it"
                    self._job.files.fail(name, reason)
                    yield Outcome(unit, None, reason)
                elif unit is not None:
                    waiting.appendleft(unit)
            else:
                if isinstance(found, UserError):
                    raise found
                if unit is not None:
                    yield found
                idle.append(actor)
            while idle and waiting:
                actor, unit = idle.pop(), waiting.popleft()
                calls[actor.predict.remote(unit)] = actor, unit


def refuse_unreachable(address: str | None) -> None:
    """Check that something listens at HOST:PORT, because Ray itself tries for minutes.

    Raises:
        UserError: nothing does.
    """
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--address {address}: no cluster of Ray there: {error}") from None


@contextmanager
def ray_engine(
    job: Job, address: str | None, workers: int | None, imports: Sequence[Path]
) -> Iterator[RayEngine]:
    """Actors on the cluster at `address`, or on this machine; they end with the body.

    There are `workers` of them, by default one for each GPU, or for each host where there is none.
    Hosts have to see the run, the data and the output under the same names. Each actor runs the
    files `imports` first.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: must be at least 1")
    refuse_unreachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'product_mil[ray]'") from None
    try:
        # Without an address, a cluster of its own, even if RAY_ADDRESS names another.
        ray.init(address or "local", include_dashboard=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: Ray cannot be reached or started: {error}") from None
    try:
        yield RayEngine(ray, job, workers, imports)
    finally:
        ray.shutdown()
