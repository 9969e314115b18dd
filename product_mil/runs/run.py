"""Run a training from its first line to its last: all stages, in one directory."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from product_mil.config import STAGES, Config
from product_mil.config.start import FromRun
from product_mil.data.faults import FaultList
from product_mil.devices.beats import watched
from product_mil.devices.hosts import (
    by_the_first,
    first_before_others,
    from_first,
    is_first,
    largest,
)
from product_mil.devices.memory import free_memory_bytes
from product_mil.devices.mesh import data_mesh, local, replicate
from product_mil.errors import Interrupted
from product_mil.inference.outputs import refuse_data
from product_mil.model.classifier import Model
from product_mil.model.prior import with_log_prior
from product_mil.model.registry import head
from product_mil.runs.claim import claim, refuse_another, write_once
from product_mil.runs.data import RunData, build_data
from product_mil.runs.directory import (
    HOSTS,
    checkpoint_directory,
    training_in,
)
from product_mil.runs.known_products import keep_products
from product_mil.runs.model import build_model, levels_of, log_prior_of
from product_mil.runs.same_run import refuse_other_inputs, refuse_other_settings
from product_mil.runs.stage import RunParts, build_stage, run_record
from product_mil.runs.summary import conclusion, introduction, notes_on_validation
from product_mil.train.checkpoint import Checkpoints
from product_mil.train.cost import (
    expected_time,
    measure_steps,
    peak_memory_bytes,
)
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage, is_complete, train_stage
from product_mil.train.state import TrainState, evaluated_parameters
from product_mil.train.stopping import stop_requests

FAULTS_FILE = "bad_records.csv"


def run(config: Config, workdir: Path, deadline: float = math.inf) -> None:
    """Start or continue the run in `workdir`, at most until `time.monotonic` is `deadline`.

    Raises:
        UserError: there is an error that the user can correct.
        Interrupted: the user asked to stop (SIGTERM, SIGHUP, Ctrl-C), or the deadline passed.
            Everything is saved.
    """
    refuse_other_settings(config)
    for spec in filter(None, (config.data.train, config.data.valid)):
        refuse_data([workdir], spec)
    with ExitStack() as held:

        def hold() -> None:
            held.enter_context(training_in(workdir))
            refuse_another(config, workdir)

        by_the_first(hold)
        with watched(workdir / HOSTS):
            _run(config, workdir, deadline)


def _run(config: Config, workdir: Path, deadline: float) -> None:
    started = time.monotonic()
    log = RunLog(workdir, writes=is_first())
    log.metrics()  # raises now if the file is damaged
    data = first_before_others(lambda: build_data(config))
    mesh = data_mesh(config.data.shards)
    model, notes = untrained_model(config, data)
    refuse_other_inputs(data, model)
    record = run_record(config, data, model)
    faults = fault_list(config, workdir)
    for catalogue in {id(p.catalogue): p.catalogue for p in (data.train, data.valid)}.values():
        faults.add_records(catalogue)
    faults.add_products(data.product_faults)
    faults.add_rows(Path(config.data.categories), data.category_faults)
    # After the checks above, so that a mistyped path leaves no run that refuses the correct one.

    def begin() -> None:
        claim(config, workdir)
        write_once(workdir, record)
        keep_products(workdir, data)

    by_the_first(begin)
    log.say(introduction(config, workdir, data, record))
    for note in [*data.notes, *notes, *notes_on_validation(data)]:
        log.say(f"  note: {note}")
    # The prior has a stage of no steps.
    stages = trained_stages(config) or STAGES[:1]
    begun = _begun(workdir, stages)
    parts = RunParts(config, data, model, mesh, record, log, faults, deadline)
    try:
        built = {
            name: build_stage(parts, name, number)
            for number, name in list(enumerate(stages))[begun:]
        }
        _log_expectations(config, workdir, data, model, built, log)
        for name, (stage, start) in built.items():
            with Checkpoints(checkpoint_directory(workdir, name)) as checkpoints:
                state = replicate(start(model), mesh)
                state = train_stage(stage, state, checkpoints, log, faults)
            arrays = evaluated_parameters(state), state.statistics
            model = Model(model.structure, *local(arrays))
            log.draw_curves()
    except Interrupted as interrupted:
        log.keep(str(interrupted))
        raise
    finally:
        log.close()
        summary = faults.write() if is_first() else None
        if summary:
            log.say(f"  note: {summary}")
    log.say(conclusion(config, log, workdir, time.monotonic() - started))


def _saved_step(directory: Path) -> int:
    """The step of the last whole checkpoint of a stage; 0 if there is none."""
    return int(from_first(str(_proven_step(directory) if is_first() else 0)))


def _proven_step(directory: Path) -> int:
    if not directory.is_dir():
        return 0
    with Checkpoints(directory, read_only=True) as checkpoints:
        return checkpoints.proven_step() or 0


def _begun(workdir: Path, stages: Sequence[str]) -> int:
    """The number of the last stage that has a whole checkpoint, which needs no earlier stage."""
    for number in range(len(stages) - 1, 0, -1):
        if _saved_step(checkpoint_directory(workdir, stages[number])):
            return number
    return 0


def _log_expectations(
    config: Config,
    workdir: Path,
    data: RunData,
    model: Model,
    built: Mapping[str, tuple[Stage, Callable[[Model], TrainState]]],
    log: RunLog,
) -> None:
    """Log how long each incomplete stage will take, and the memory used so far.

    Raises:
        Interrupted: the user asked to stop.
    """
    with stop_requests() as stop:
        for name, (stage, start) in built.items():
            step = _saved_step(checkpoint_directory(workdir, name))
            if is_complete(stage, log, step):
                continue
            state = replicate(start(model), stage.mesh)
            cost, _ = measure_steps(stage, state, seconds=0.5, at_least=3)
            if asked := largest(stop()):
                raise Interrupted("stopped before the first step", asked)
            # A forward pass is a third of a step.
            batches = data.valid.num_images.sum() / getattr(config, name).images_per_batch
            evaluation_s = float(batches) * cost.step_s / 3
            time_line = expected_time(stage, cost, step=step, evaluation_s=evaluation_s)
            peak_gb, free_gb = peak_memory_bytes() / 1e9, free_memory_bytes() / 1e9
            log.say(f"  {time_line}; memory until here {peak_gb:.1f} GB, {free_gb:.1f} GB free")


def trained_stages(config: Config) -> tuple[str, ...]:
    """The stages that take steps, in their order."""
    return tuple(name for name in STAGES if getattr(config, name).epochs != 0)


def fault_list(config: Config, workdir: Path) -> FaultList:
    """An empty list of faults with the configuration's policies."""
    return FaultList(
        workdir / FAULTS_FILE,
        bad_records=config.data.bad_records,
        bad_images=config.data.bad_images,
    )


def untrained_model(config: Config, data: RunData) -> tuple[Model, list[str]]:
    """The model from which the first stage starts, and lines on its weights.

    Raises:
        UserError: weights do not fit, or are not available.
    """
    model, notes = build_model(
        config, len(data.categories.ids), data.categories.ids, levels_of(data.categories)
    )
    if head(config.model.pooling).is_counted:
        model = with_log_prior(model, log_prior_of(data.class_counts))
    start = config.model.start
    if isinstance(start, FromRun):
        from product_mil.runs.warm_start import warm_start

        model, notes = warm_start(model, config.model, data.categories, start.workdir)
    return model, notes
