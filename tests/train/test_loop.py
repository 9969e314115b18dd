"""The loop over tiny steps: stopped anywhere, it ends with the same numbers."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.data.products import ImageFault
from product_mil.devices.mesh import data_mesh, put_batch, replicate
from product_mil.devices.runtime import step_flops
from product_mil.errors import Interrupted, UserError
from product_mil.train.checkpoint import Checkpoints
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage, train_stage
from product_mil.train.state import TrainState
from tests.train.test_checkpoint import assert_equal
from tests.train.tiny import EVERYTHING, batch_of, mesh_of, prepared, start

STEPS, EVERY = 11, 4
TIMING = ("train/images_per_s", "train/products_per_s", "train/wait_share", "train/mfu")


class Killed(Exception):
    """Stands for a power cut between two steps."""


def batches_until(stop: Callable[[int], None]) -> Callable[[int], Iterator[Loaded]]:
    """Batches from a step on; `stop(step)` may raise before any of them."""

    def batches(first: int) -> Iterator[Loaded]:
        for step in range(first, STEPS):
            stop(step)
            batch = batch_of(step)
            fault = ImageFault("a.bson", step, 7, 0, "damaged")
            yield Loaded(batch, np.zeros(batch.slots.label.shape, np.int64), [fault])

    return batches


def evaluate(parameters: Any, statistics: Any) -> dict[str, float]:
    """A number that depends on every parameter."""
    total = sum(float(jnp.abs(leaf).sum()) for leaf in parameters.values())
    return {"top1": total % 1, "nll": float(total)}


def stage_of(stop: Callable[[int], None] = lambda step: None, **changes: Any) -> Stage:
    stage = Stage(
        name="finetune",
        num_steps=STEPS,
        evaluate_every_steps=EVERY,
        patience_evaluations=0,
        checkpoint_every_s=1e9,
        train_step=prepared()[3],
        calibrate=lambda parameters, statistics: statistics,
        evaluate=evaluate,
        batches=batches_until(stop),
        key=jax.random.key(5),
        mesh=mesh_of(1),
        run_record={"name": "test"},
    )
    return dataclasses.replace(stage, **changes)


def train(workdir: Path, stage: Stage, made: Any = None) -> TrainState:
    _, arrays, optimizer, _ = made or prepared()
    log = RunLog(workdir)
    try:
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            state = replicate(start(arrays, optimizer), stage.mesh)
            return train_stage(stage, state, checkpoints, log, FaultList(workdir / "bad.csv"))
    finally:
        log.close()


def rows(workdir: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in TIMING}
        for row in RunLog(workdir).metrics()
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, list[dict[str, Any]]]:
    """A run that nothing stops."""
    workdir = tmp_path_factory.mktemp("whole")
    return train(workdir, stage_of()), rows(workdir)


def test_evaluates_each_epoch_and_at_the_end(whole: Any) -> None:
    state, lines = whole
    assert int(state.step) == STEPS
    assert [line["step"] for line in lines] == [4, 8, 11]
    assert lines[-1]["valid/nll"] == evaluate(state.ema | state.frozen, None)["nll"]
    losses = [line["train/loss"] for line in lines]
    assert all(np.isfinite(losses))
    assert losses[0] > losses[-1]
    # Means since the last line, by hand from the sums left after the last one.
    assert state.totals["steps"] == 0


@pytest.mark.parametrize("every_s", [1e9, 1e-9])
@pytest.mark.parametrize("killed_at", [(0,), (1,), (4,), (6, 7, 9), (10,)])
def test_killed_and_started_again_is_the_same(
    whole: Any, killed_at: tuple[int, ...], every_s: float, tmp_path: Path
) -> None:
    for kill in killed_at:

        def stop(step: int, kill: int = kill) -> None:
            if step == kill:
                raise Killed

        with pytest.raises(Killed):
            train(tmp_path, stage_of(stop, checkpoint_every_s=every_s))
    resumed_at: list[int] = []
    state = train(tmp_path, stage_of(resumed_at.append, checkpoint_every_s=every_s))
    last = killed_at[-1]
    assert resumed_at[0] == (last if every_s < 1 else last // EVERY * EVERY)
    assert_equal(state, whole[0])
    assert rows(tmp_path) == whole[1]


def test_killed_in_an_evaluation(whole: Any, tmp_path: Path) -> None:
    """Also between the line of metrics and its checkpoint."""
    calls: list[int] = []

    def failing(parameters: Any, statistics: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return evaluate(parameters, statistics)

    with pytest.raises(Killed):
        train(tmp_path, stage_of(evaluate=failing))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "finetune", "step": 8, "valid/top1": 0.1}\n{"stage": "fine')
    assert_equal(train(tmp_path, stage_of()), whole[0])
    assert rows(tmp_path) == whole[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_request_to_stop_saves(whole: Any, number: int, tmp_path: Path) -> None:
    before = signal.getsignal(number)

    def stop(step: int) -> None:
        if step == 6:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match="step 7 of stage finetune") as interrupted:
        train(tmp_path, stage_of(stop))
    assert interrupted.value.signal == number
    assert signal.getsignal(number) is before
    resumed_at: list[int] = []
    assert_equal(train(tmp_path, stage_of(resumed_at.append)), whole[0])
    assert resumed_at[0] == 7
    assert rows(tmp_path) == whole[1]


def test_nohup_stays_nohup(whole: Any, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = train(tmp_path, stage_of(lambda _: signal.raise_signal(signal.SIGHUP)))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_equal(result, whole[0])


def test_asked_twice(tmp_path: Path) -> None:
    """A terminal that closes may say so several times; a second Ctrl-C means at once."""

    def ask(*numbers: int) -> Callable[[int], None]:
        def stop(step: int) -> None:
            for number in numbers if step == 6 else ():
                signal.raise_signal(number)

        return stop

    hup, term = signal.SIGHUP, signal.SIGTERM
    for number, asked in enumerate([(hup, hup, hup), (hup, term), (term, hup)]):
        with pytest.raises(Interrupted, match="step 7") as interrupted:
            train(tmp_path / str(number), stage_of(ask(*asked)))
        assert interrupted.value.signal == asked[0]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "at once", stage_of(ask(term, signal.SIGINT)))


def test_a_damaged_checkpoint_costs_the_steps_after_the_one_before_it(
    whole: Any, tmp_path: Path
) -> None:
    def stop(step: int) -> None:
        if step == 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(tmp_path, stage_of(stop))
    directory = tmp_path / "checkpoints"
    newest = max(int(path.name) for path in directory.iterdir())
    for path in (directory / str(newest)).rglob("d/*"):
        path.write_bytes(bytes(path.stat().st_size))
    resumed_at: list[int] = []
    assert_equal(train(tmp_path, stage_of(resumed_at.append)), whole[0])
    assert 0 < resumed_at[0] < newest
    assert rows(tmp_path) == whole[1]
    assert f"checkpoint {newest} " in (tmp_path / "log.txt").read_text()
    assert (directory / f"damaged-{newest}").is_dir()


def test_a_request_during_an_evaluation_is_heard_after_the_next_step(
    whole: Any, tmp_path: Path
) -> None:
    def asking(parameters: Any, statistics: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return evaluate(parameters, statistics)

    with pytest.raises(Interrupted, match="step 5 of stage finetune"):
        train(tmp_path, stage_of(evaluate=asking))
    resumed_at: list[int] = []
    assert_equal(train(tmp_path, stage_of(resumed_at.append)), whole[0])
    assert resumed_at[0] == 5
    assert rows(tmp_path) == whole[1]


def test_a_finished_stage_does_nothing(whole: Any, tmp_path: Path) -> None:
    train(tmp_path, stage_of())
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def never(step: int) -> None:
        raise AssertionError(step)

    assert_equal(train(tmp_path, stage_of(never)), whole[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_parameters_that_the_last_step_made_infinite_stop_the_run(tmp_path: Path) -> None:
    def train_step(state: TrainState, batch: Any, key: Any) -> tuple[TrainState, Any]:
        state, loss = prepared()[3](state, batch, key)
        with jax.transfer_guard("allow"):
            scale = jnp.where(state.step == EVERY, jnp.inf, 1)
            broken = jax.tree.map(lambda x: scale * x, (state.trainable, state.ema))
            return state._replace(trainable=broken[0], ema=broken[1]), loss

    with pytest.raises(UserError, match=f"no longer finite after step {EVERY} of stage finetune"):
        train(tmp_path, stage_of(train_step=train_step))


@pytest.mark.parametrize("bad_step", [1, 3, 4, 11])
def test_a_loss_that_is_not_finite_stops_the_run(bad_step: int, tmp_path: Path) -> None:
    def train_step(state: TrainState, batch: Any, key: Any) -> tuple[TrainState, Any]:
        state, loss = prepared()[3](state, batch, key)
        with jax.transfer_guard("allow"):
            return state, jnp.where(state.step == bad_step, jnp.nan, loss)

    with pytest.raises(UserError) as caught:
        train(tmp_path, stage_of(train_step=train_step))
    text = str(caught.value)
    assert f"the loss is nan at step {bad_step} of stage finetune" in text
    assert "config.finetune.learning_rate" in text
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert max(checkpoints.steps(), default=0) < bad_step


def test_patience_stops_and_stays_stopped(tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5])

    def worse(parameters: Any, statistics: Any) -> dict[str, float]:
        return {"top1": 0.5, "nll": next(losses)}

    changes = {"evaluate": worse, "evaluate_every_steps": 2, "patience_evaluations": 2}
    state = train(tmp_path, stage_of(**changes))
    assert int(state.step) == 8
    assert [row["valid/nll"] for row in rows(tmp_path)] == [3.0, 1.0, 2.0, 1.5]
    again = train(tmp_path, stage_of(lambda step: pytest.fail("trained on"), **changes))
    assert_equal(again, state)


def test_all_devices_take_part(whole: Any, tmp_path: Path) -> None:
    """With the transfer guard on, as it always is in the loop."""
    state = train(tmp_path, stage_of(mesh=mesh_of(4)))
    for path, leaf in whole[0].trainable.items():
        assert len(state.trainable[path].sharding.device_set) == 4
        np.testing.assert_allclose(state.trainable[path], leaf, atol=1e-3, err_msg=path)


@pytest.mark.slow
def test_begun_on_four_devices_goes_on_with_one(whole: Any, tmp_path: Path) -> None:
    """With dropout, augmentation and batch statistics on: as if it had had one all along."""
    made = prepared("gated_attention", 0.3, ranges=EVERYTHING)

    def stop(step: int) -> None:
        if step == 5:
            raise Killed

    stage = stage_of(train_step=made[3])
    one = train(tmp_path / "one", stage, made)
    mesh = mesh_of(4)
    four = dataclasses.replace(
        stage, batches=batches_until(stop), mesh=mesh, key=replicate(stage.key, mesh)
    )
    with pytest.raises(Killed):
        train(tmp_path / "moved", four, made)
    resumed_at: list[int] = []
    moved = train(tmp_path / "moved", stage_of(resumed_at.append, train_step=made[3]), made)
    assert resumed_at[0] == 4
    for name in ("trainable", "statistics"):
        for path, leaf in getattr(one, name).items():
            np.testing.assert_allclose(
                getattr(moved, name)[path], leaf, atol=1e-4, rtol=1e-4, err_msg=path
            )
    path = "backbone/dense/kernel"  # and what is random counts
    assert np.abs(np.asarray(one.trainable[path] - whole[0].trainable[path])).max() > 1e-2


def test_faults_are_listed(tmp_path: Path) -> None:
    """Also those met before a kill, which a resumed run does not meet again."""

    def stop(step: int) -> None:
        if step == 9:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, stage_of(stop))
    assert len(FaultList(tmp_path / "bad.csv")) == 8  # those before the last checkpoint
    train(tmp_path, stage_of())
    assert len(FaultList(tmp_path / "bad.csv")) == STEPS


def test_rates_are_those_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 0.5 s a batch waited for and 1.5 s a step; nothing else takes time."""
    now = [100.0]
    monkeypatch.setattr("product_mil.train.loop.time.monotonic", lambda: now[0])

    def wait(step: int) -> None:
        now[0] += 0.5

    def train_step(state: TrainState, batch: Any, key: Any) -> tuple[TrainState, Any]:
        now[0] += 1.5
        return prepared()[3](state, batch, key)

    flops = 6e9
    monkeypatch.setattr("product_mil.train.pace.step_flops", lambda *_: flops)
    train(tmp_path, stage_of(wait, train_step=train_step, peak_flops_per_s=4e9))
    lines = RunLog(tmp_path).metrics()
    # The first step compiles: it counts for nothing, and neither does the wait for it.
    for line, steps in zip(lines, ([1, 2, 3], [4, 5, 6, 7], [8, 9, 10]), strict=True):
        slots = [batch_of(step).slots for step in steps]
        images = sum(int((s.segment < s.label.shape[1]).sum()) for s in slots)
        products = sum(int((s.label >= 0).sum()) for s in slots)
        assert images > products > 0
        assert line["train/images_per_s"] == pytest.approx(images / (2 * len(steps)))
        assert line["train/products_per_s"] == pytest.approx(products / (2 * len(steps)))
        assert line["train/wait_share"] == pytest.approx(0.25)
        assert line["train/mfu"] == pytest.approx(6e9 / 2 / 4e9)
    log = (tmp_path / "log.txt").read_text()
    assert "products/s, 25% waiting, MFU 75%," in log


def test_operations_of_a_step_are_counted() -> None:
    a, b = jnp.ones((32, 64)), jnp.ones((64, 16))
    multiply = jax.jit(lambda x, y: x @ y)
    assert step_flops(multiply, a, b) == 2 * 32 * 64 * 16
    # Those of all devices, wherever the arguments lie.
    mesh = data_mesh(jax.device_count())
    assert step_flops(multiply, put_batch(a, mesh), replicate(b, mesh)) == 2 * 32 * 64 * 16
