"""The checkpoints of one stage: the last and the best, by Orbax.

A checkpoint holds `model` (parameters and statistics) and `training` (optimiser, step, sums)
apart from each other, so that a next stage or a prediction reads the model alone, and as metadata
the record of the run: what the weights mean (classes, tree, configuration).
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from product_mil.errors import UserError
from product_mil.train.state import Arrays, TrainState, abstract, evaluated_parameters

BEST_METRIC = "valid/top1"
MAX_LISTED_LEAVES = 10


class Checkpoints:
    """Save and restore under one directory; `close` it, or the last save may be lost."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        """`read_only` leaves a directory alone in which another process may be saving."""
        from orbax.checkpoint import v1 as ocp

        keep = ocp.training.preservation_policies
        best = keep.BestN(
            get_metric_fn=lambda metrics: metrics[BEST_METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._directory = directory
        logging.getLogger("absl").addFilter(_is_not_told_again)
        # Any: Orbax annotates less than it takes.
        checkpointer: Any = ocp.training.Checkpointer
        self._checkpointer = checkpointer(
            directory.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), best]),
            cleanup_tmp_directories=not read_only,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for saves under way.

        Raises:
            UserError: one could not be written.
        """
        with self._writing():
            self._checkpointer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore's full disk is a ValueError
            reason = str(error).partition("\n")[0].partition(" [")[0]
            raise UserError(
                f"a checkpoint could not be written to {self._directory}: {reason}; make room "
                "and give the same command again"
            ) from error

    def latest_step(self) -> int | None:
        """The step of the last complete checkpoint."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def best_step(self) -> int | None:
        """The step of the checkpoint with the best validation top-1, the latest among equals."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        if not scored:
            return self.latest_step()
        return max(scored, key=lambda c: (c.metrics[BEST_METRIC], c.step)).step

    def save(
        self, state: TrainState, run: Mapping[str, Any], metrics: Mapping[str, float] | None
    ) -> None:
        """Write the state of step `state.step`; `metrics` decide which one is the best.

        Raises:
            UserError: it cannot be written (a full disk, say); the checkpoints before it stay.
        """
        step = int(state.step)
        scores = None if metrics is None else {BEST_METRIC: float(metrics[BEST_METRIC])}
        with self._writing():
            self._checkpointer.save_checkpointables(
                step, _parts(state), metrics=scores, custom_metadata=dict(run), overwrite=True
            )

    def restore(self, state: TrainState) -> TrainState | None:
        """The last checkpoint's state, in the shapes and places of `state`; None without one.

        Raises:
            UserError: it is of another model.
        """
        step = self.latest_step()
        if step is None:
            return None
        found = self._load(step, abstract(_parts(state)))
        parameters, training = found["model"]["parameters"], found["training"]
        chosen = {path: parameters[path] for path in state.trainable}
        return TrainState(
            step=training["step"],
            trainable=chosen if state.ema is None else training["trainable"],
            frozen={path: parameters[path] for path in state.frozen},
            statistics=found["model"]["statistics"],
            optimizer=training["optimizer"],
            ema=None if state.ema is None else chosen,
            totals=training["totals"],
        )

    def restore_model(
        self, step: int, parameters: Arrays, statistics: Arrays
    ) -> tuple[Arrays, Arrays]:
        """Parameters and statistics of a step, in the shapes and places of those given.

        Raises:
            UserError: the checkpoint is of another model.
        """
        wanted = {"parameters": abstract(parameters), "statistics": abstract(statistics)}
        found = self._load(step, {"model": wanted})["model"]
        return found["parameters"], found["statistics"]

    def run_record(self, step: int) -> dict[str, Any]:
        """What the weights of a step mean."""
        return dict(self._checkpointer.checkpointables_metadata(step).custom_metadata or {})

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            if "model" in wanted:
                self._refuse_another_model(step, wanted["model"])
            return self._checkpointer.load_checkpointables(step, wanted)
        except (ValueError, KeyError, OSError) as error:
            cause = error.__cause__ or error
            raise UserError(
                f"checkpoint {step} in {self._directory} cannot be read as this model: {cause}; "
                "was it made by another configuration?"
            ) from error

    def _refuse_another_model(self, step: int, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare leaves before reading them: Orbax' own message names none.

        Raises:
            ValueError: leaves differ.
            UserError: they could not be listed.
        """
        metadata: Any = self._checkpointer.checkpointables_metadata(step).metadata["model"]
        if metadata is None:  # Orbax swallowed whatever happened, Ctrl-C too
            raise UserError(
                f"what checkpoint {step} in {self._directory} holds was not read to the end; give "
                "the same command again"
            )
        lines = [line for part in wanted for line in leaf_mismatches(wanted[part], metadata[part])]
        if lines:
            raise ValueError("; ".join(lines[:MAX_LISTED_LEAVES]))


def _is_not_told_again(record: logging.LogRecord) -> bool:
    """Each of Orbax' threads prints the traceback of what saving or closing raises in the end."""
    return not (record.exc_info and "/orbax/" in record.pathname)


def leaf_mismatches(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Leaves (whatever has a shape) that are missing, unused or of another shape, a line each."""
    lines = [f"missing: {path}" for path in wanted if path not in found]
    lines += [f"unused: {path}" for path in found if path not in wanted]
    lines += [
        f"{path}: {tuple(found[path].shape)} where the model has {tuple(wanted[path].shape)}"
        for path in wanted
        if path in found and found[path].shape != wanted[path].shape
    ]
    return lines


def _parts(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state: what predicts, and what only training needs."""
    return {
        "model": {
            "parameters": evaluated_parameters(state),
            "statistics": state.statistics,
        },
        "training": {
            "step": state.step,
            # With an average kept, `model` holds the average; the raw ones are needed here.
            "trainable": None if state.ema is None else state.trainable,
            "optimizer": state.optimizer,
            "totals": state.totals,
        },
    }
