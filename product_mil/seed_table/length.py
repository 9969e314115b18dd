"""How many steps a training can take within its time, from measured costs of its stages."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product_mil.config import Config
from product_mil.devices.mesh import data_mesh, replicate
from product_mil.runs.data import build_data
from product_mil.runs.run import fault_list, trained_stages, untrained_model
from product_mil.runs.stage import RunParts, build_stage, run_record
from product_mil.train.cost import measure_steps
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage
from product_mil.train.state import TrainState, evaluated_parameters

RESERVE = 0.15  # share of a system's time that is kept free, since later steps may be slower
_PARTS = 1000  # number of lengths that are tried, from the shortest to the whole one
_LEAST_PARTS = 250  # the fewest of these parts to which several stages are shortened together
_STEPS_S = 2.0  # seconds for which steps are measured
_MIN_STEPS = 3  # steps that are measured at least
_EVALUATION_SHARE = 0.1  # of the time left; an evaluation that takes longer is not measured (again)


@dataclass(frozen=True)
class StageCost:
    """What a stage costs: the number of its steps, and the seconds for each part of the work."""

    num_steps: int
    evaluate_every_steps: int
    compile_s: float
    step_s: float
    evaluation_s: float

    def seconds(self, num_steps: int) -> float:
        """Seconds that `num_steps` steps take, with their evaluations.

        Each number of steps needs a compiled program of its own. That of the whole length was
        compiled when the cost was measured, so it costs nothing more.
        """
        if not num_steps:
            return 0.0
        evaluations = -(-num_steps // self.evaluate_every_steps)
        compile_s = self.compile_s if num_steps < self.num_steps else 0.0
        return compile_s + num_steps * self.step_s + evaluations * self.evaluation_s


@dataclass(frozen=True)
class RunCost:
    """What a run costs: the seconds until it trains, and the cost of each stage."""

    start_s: float
    stages: dict[str, StageCost]

    @property
    def steps(self) -> dict[str, int]:
        """The number of steps of each stage at its whole length."""
        return {name: stage.num_steps for name, stage in self.stages.items()}

    def seconds(self, steps: Mapping[str, int]) -> float:
        """Seconds that a run with these numbers of steps takes."""
        return self.start_s + sum(stage.seconds(steps[name]) for name, stage in self.stages.items())

    def steps_within(self, spare_s: float) -> dict[str, int]:
        """The largest numbers of steps that fit into `spare_s` seconds, less the reserve.

        All stages are shortened in the same proportion. Where that would leave less than a quarter
        of them, the last stage is dropped (0 steps) in favour of those before it. The result has at
        least one step of the first stage, however long that takes.
        """
        for kept in range(len(self.stages), 0, -1):
            for number in range(_PARTS, 0 if kept == 1 else _LEAST_PARTS - 1, -1):
                steps = self._part(kept, number)
                if self.seconds(steps) <= spare_s * (1 - RESERVE):
                    return steps
        return self._part(1, 0)

    def _part(self, kept: int, number: int) -> dict[str, int]:
        """`number` thousandths of the steps of the first `kept` stages, at least one step each.

        The other stages get 0 steps.
        """
        return {
            name: max(steps * number // _PARTS, 1) if place < kept else 0
            for place, (name, steps) in enumerate(self.steps.items())
        }

    def to_dict(self) -> dict[str, Any]:
        """The cost as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "RunCost":
        """The inverse of `to_dict`."""
        stages = {name: StageCost(**stage) for name, stage in found["stages"].items()}
        return cls(found["start_s"], stages)


def with_steps(config: Config, steps: Mapping[str, int]) -> Config:
    """The configuration with each stage limited to these steps; 0 leaves the stage out.

    Schedules (warm-up and decay) shrink with their stages.
    """
    bounded = {
        name: dataclasses.replace(
            getattr(config, name), **({"max_steps": bound} if bound else {"epochs": 0})
        )
        for name, bound in steps.items()
    }
    return dataclasses.replace(config, **bounded)


def shortening(steps: Mapping[str, int], whole: Mapping[str, int]) -> str:
    """Words for the part of its steps that a run was given; empty where it was all of them."""
    if steps == whole:
        return ""
    return " and ".join(f"{steps[name]} of {count}" for name, count in whole.items()) + " steps"


def measure_cost(config: Config, workdir: Path, deadline: float) -> RunCost:
    """Measure what a run in `workdir` will cost, by a few steps and an evaluation of each stage.

    The trained parameters are thrown away. Embeddings that are computed meanwhile stay in the
    cache, so their time is not part of the cost.

    Raises:
        Interrupted: embedding took until the deadline (a value of `time.monotonic`).
    """
    started = time.monotonic()
    data, mesh = build_data(config), data_mesh(config.data.shards)
    model, _ = untrained_model(config, data)
    record = run_record(config, data, model)
    log, faults = RunLog(workdir), fault_list(config, workdir)
    parts = RunParts(config, data, model, mesh, record, log, faults, deadline)
    start_s = time.monotonic() - started
    names = trained_stages(config)
    stages: dict[str, StageCost] = {}
    for number, name in enumerate(names):
        stage, start = build_stage(parts, name, number)
        batches_to_evaluate = data.valid.num_images.sum() / getattr(config, name).images_per_batch
        stages[name] = _measure_stage(
            stage, replicate(start(model), mesh), float(batches_to_evaluate), deadline
        )
    return RunCost(start_s, stages)


def _measure_stage(
    stage: Stage, state: TrainState, batches_to_evaluate: float, deadline: float
) -> StageCost:
    cost, state = measure_steps(stage, state, seconds=_STEPS_S, at_least=_MIN_STEPS)
    # An upper bound, since a training step takes longer than a prediction.
    evaluation_s = batches_to_evaluate * cost.step_s
    for _ in range(2):  # the first one includes compilation
        if evaluation_s < _EVALUATION_SHARE * (deadline - time.monotonic()):
            evaluation_s = min(evaluation_s, _evaluation_s(stage, state))
    return StageCost(
        stage.num_steps, stage.evaluate_every_steps, cost.compile_s, cost.step_s, evaluation_s
    )


def _evaluation_s(stage: Stage, state: TrainState) -> float:
    started = time.monotonic()
    parameters = evaluated_parameters(state)
    stage.evaluate(parameters, stage.calibrate(parameters, state.statistics))
    return time.monotonic() - started
