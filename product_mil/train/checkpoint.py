"""The checkpoints of one stage: the last two and the best, in Orbax's format.

A checkpoint has two parts, `model` (parameters and statistics) and `training` (optimiser, step,
sums), so that the next stage or a prediction can read the model alone. Its metadata are the record
of the run, which says what the weights mean (classes, tree, configuration). A file has digests of
all others. If a checkpoint is damaged later, this is reported, and the one before it is used.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding

from product_mil.devices.hosts import are_several, by_the_first, from_first, is_first
from product_mil.devices.mesh import local, replicate
from product_mil.errors import UserError
from product_mil.files.digests import write_digests
from product_mil.files.outputs import DRAFT_PREFIX
from product_mil.model.classifier import Arrays
from product_mil.train.checkpoint_parts import (
    MAX_LISTED_LEAVES,
    leaf_mismatches,
    parts_of,
    state_of,
)
from product_mil.train.record import refuse_newer
from product_mil.train.state import TrainState, abstract
from product_mil.train.step_directories import BEST_METRIC, StepDirectories

T = TypeVar("T")


class DamagedCheckpoint(UserError):
    """A checkpoint has changed since it was written."""


class Checkpoints:
    """Saves and restores checkpoints in one directory. Close it after use.

    Several processes that train together open, save and restore at the same time. Process 0 alone
    decides which checkpoints stay and which one is read. They are the same for any number of them.

    Raises:
        UserError: a checkpoint cannot be written, or is of another model or a newer format.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        """Open a directory; with `read_only` nothing in it is changed, as another may be saving."""
        logging.getLogger("absl").addFilter(_is_news)
        self.set_aside: list[str] = []  # lines on damaged checkpoints that `restore` came across
        self._directory, self._directories = directory, StepDirectories(directory)
        if not read_only:
            by_the_first(self._make)
        try:
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UserError(f"cannot read {directory}: {error.strerror}") from None
        # Orbax fails at names with brackets, backslashes or bytes that are not UTF-8, so it gets
        # an alias.
        alias = f"/proc/self/fd/{self._descriptor}"
        has_alias = Path(alias).is_dir() and not are_several()  # to whom Orbax wants to be equal
        self._place = alias if has_alias else str(directory.absolute())

    def _make(self) -> None:
        with self._writing():
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directories.remove_drafts()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore's full disk is a ValueError
            reason = self._own_words(error).partition("\n")[0].partition(" [")[0]
            raise UserError(
                f"a checkpoint could not be written to {self._directory}: {reason}; make room "
                "and give the same command again"
            ) from error

    def _own_words(self, error: BaseException) -> str:
        """The text of an error, with the real name of the directory."""
        return str(error).replace(self._place, str(self._directory))

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return self._directories.steps()

    def best_first(self) -> list[int]:
        """All steps: those that were evaluated by their validation top-1, then the others."""
        return self._directories.best_first()

    def save(
        self, state: TrainState, run: Mapping[str, Any], metrics: Mapping[str, float] | None
    ) -> None:
        """Write the state of step `state.step`. `metrics` decide which checkpoint is the best.

        Raises:
            UserError: it cannot be written, for instance because the disk is full. Earlier
                checkpoints stay.
        """
        from orbax.checkpoint import v1 as ocp

        step = int(state.step)
        draft = self._directory / f"{DRAFT_PREFIX}{step}"
        try:
            with self._writing():
                ocp.save_checkpointables(
                    f"{self._place}/{draft.name}", parts_of(state), custom_metadata=dict(run)
                )
            by_the_first(lambda: self._publish(draft, step, metrics))
        finally:
            if is_first():
                shutil.rmtree(draft, ignore_errors=True)

    def _publish(self, draft: Path, step: int, metrics: Mapping[str, float] | None) -> None:
        with self._writing():
            if metrics is not None:
                self._directories.write_score(draft, float(metrics[BEST_METRIC]))
            write_digests(draft)
            self._directories.publish(draft, step)

    def restore(self, state: TrainState) -> TrainState | None:
        """The state of the last undamaged checkpoint, with the shapes and devices of `state`.

        Damaged ones after it are renamed, and `set_aside` has a line on each. The result is None if
        there is no checkpoint.

        Raises:
            UserError: the checkpoint is of another model.
        """
        if not are_several():
            found = self._last_whole(lambda step: self._load(step, abstract(parts_of(state))))
            return None if found is None else state_of(found, state)
        chosen = by_the_first(lambda: self._last_whole(lambda step: self._verify(step) or step))
        step, here = from_first("" if chosen is None else str(chosen)), local(state)
        if not step:
            return None
        found = self._load(int(step), abstract(parts_of(here)))
        sharding = state.step.sharding
        assert isinstance(sharding, NamedSharding)
        assert isinstance(sharding.mesh, Mesh)
        return replicate(state_of(found, here), sharding.mesh)

    def _last_whole(self, read: Callable[[int], T]) -> T | None:
        """What `read` finds at the last step that is not damaged; later ones are set aside."""
        for step in reversed(self.steps()):
            try:
                return read(step)
            except DamagedCheckpoint as error:
                self._set_aside(step, error)
        return None

    def _set_aside(self, step: int, error: DamagedCheckpoint) -> None:
        with self._writing():
            aside = self._directories.set_aside(step)
        instead = "the one before it is used" if self.steps() else "the stage begins anew"
        self.set_aside.append(f"{error}: {instead}, and it lies in {aside} now")

    def restore_model(
        self, step: int, parameters: Arrays, statistics: Arrays
    ) -> tuple[Arrays, Arrays]:
        """The parameters and statistics of a step, with the shapes and devices of those given.

        Raises:
            DamagedCheckpoint: the checkpoint has changed since it was written.
            UserError: the checkpoint is of another model.
        """
        wanted = {"parameters": abstract(parameters), "statistics": abstract(statistics)}
        found = self._load(step, {"model": wanted})["model"]
        return found["parameters"], found["statistics"]

    def run_record(self, step: int) -> dict[str, Any]:
        """The record of a step's checkpoint, which says what its weights mean.

        Raises:
            DamagedCheckpoint: the checkpoint has changed since it was written.
            UserError: its format is newer than this version.
        """
        self._verify(step)
        return self._record(step)

    def _record(self, step: int) -> dict[str, Any]:
        record = dict(self._metadata(step).custom_metadata or {})
        if not record:
            raise self._damaged(step, "its record is empty")
        refuse_newer(record, f"checkpoint {step} in {self._directory}")
        return record

    def proven_step(self) -> int | None:
        """The step of the last checkpoint whose digests are right."""
        for step in reversed(self.steps()):
            with suppress(DamagedCheckpoint):
                self._verify(step)
                if step in self._directories.whole:
                    return step
        return None

    def _verify(self, step: int) -> None:
        """Compare a checkpoint with its digests; older ones have none."""
        try:
            damage = self._directories.damage(step)
        except FileNotFoundError:
            damage = "its digests are missing" if self._record(step).get("format", 0) else None
        if damage is not None:
            raise self._damaged(step, damage)

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(
            f"checkpoint {step} in {self._directory} is damaged ({reason[:200]})"
        )

    def _metadata(self, step: int) -> Any:
        from orbax.checkpoint import v1 as ocp

        with self._reading(step), _alone():
            return ocp.checkpointables_metadata(f"{self._place}/{step}")

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        from orbax.checkpoint import v1 as ocp

        self._verify(step)
        if "model" in wanted:
            self._refuse_another_model(step, wanted["model"])
        with self._reading(step), _alone():
            return ocp.load_checkpointables(f"{self._place}/{step}", wanted)

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Orbax finds wrong: of files without digests, damage
            reason = " ".join(self._own_words(error.__cause__ or error).split())
            if step not in self._directories.whole:
                raise self._damaged(step, reason) from error
            raise UserError(
                f"checkpoint {step} in {self._directory} cannot be read as this model: {reason}; "
                "was it made by another configuration?"
            ) from error

    def _refuse_another_model(self, step: int, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare the leaves before reading them, because Orbax' message would not name them.

        Raises:
            UserError: leaves differ, or could not be listed.
        """
        metadata = (self._metadata(step).metadata or {}).get("model")
        if metadata is None and step not in self._directories.whole:  # older, without digests
            raise self._damaged(step, "its leaves cannot be listed")
        if metadata is None:  # Orbax swallowed whatever happened, Ctrl-C too
            raise UserError(
                f"what checkpoint {step} in {self._directory} holds was not read to the end; give "
                "the same command again"
            )
        lines = [line for part in wanted for line in leaf_mismatches(wanted[part], metadata[part])]
        if lines:
            raise UserError(
                f"checkpoint {step} in {self._directory} cannot be read as this model: "
                f"{'; '.join(lines[:MAX_LISTED_LEAVES])}; was it made by another configuration?"
            )


def _alone() -> AbstractContextManager[Any]:
    """Let Orbax read in this process without waiting for the others, if there are any.

    All have to read equally often, because Orbax counts, and waits for the others' same count when
    it writes.
    """
    from orbax.checkpoint import v1 as ocp

    if not are_several():
        return nullcontext()
    context = ocp.Context()
    own = jax.process_index()
    context.multiprocessing.primary_host, context.multiprocessing.active_processes = own, {own}
    return context


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record is more than the traceback of an error that saving raises again later."""
    return not (record.exc_info and "/orbax/" in record.pathname)
