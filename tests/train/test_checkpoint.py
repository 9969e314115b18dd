import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.train.checkpoint import BEST_METRIC, Checkpoints, leaf_mismatches
from product_mil.train.mesh import put_batch, replicate
from product_mil.train.state import evaluated_parameters
from tests.train.test_step import KEY, batch_of, frozen_stage, host, mesh_of, prepared, start

RUN = {"categories": {"ids": [3, 5]}, "name": "Tee- und Kaffeekännchen"}


def trained(kind: str) -> tuple[Any, Any, Any]:
    """A state two steps on, all of its leaves away from their start, and what made it."""
    _, arrays, optimizer, step = prepared() if kind == "all" else frozen_stage()
    state = start(arrays, optimizer, kind)
    for i in range(2):
        state, _ = step(state, batch_of(i), KEY)
    return state, step, lambda: start(arrays, optimizer, kind)


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree.leaves_with_path(host(a)), jax.tree.leaves(host(b)), strict=True
    ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("kind", ["all", "head"])
def test_restores_every_leaf_by_value_and_goes_on_equal(kind: str, tmp_path: Path) -> None:
    """`all` keeps an average of the parameters, `head` none."""
    state, step, fresh = trained(kind)
    assert (state.ema is None) == (kind == "head")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(fresh()) is None
        checkpoints.save(state, RUN, None)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 2
        restored = checkpoints.restore(fresh())
        assert restored is not None
        assert_equal(restored, state)
        assert checkpoints.run_record(2) == RUN
    assert_equal(step(restored, batch_of(2), KEY)[0], step(state, batch_of(2), KEY)[0])


def test_saved_on_four_devices_restored_on_one(tmp_path: Path) -> None:
    _, arrays, optimizer, step = prepared()
    mesh = mesh_of(4)
    state, _ = step(
        replicate(start(arrays, optimizer), mesh),
        put_batch(batch_of(0), mesh),
        replicate(KEY, mesh),
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, RUN, None)
    for devices in (1, 2):
        fresh = replicate(start(arrays, optimizer), mesh_of(devices))
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(fresh)
        assert restored is not None
        assert_equal(restored, state)
        for leaf in jax.tree.leaves(restored):
            assert leaf.sharding.device_set == set(jax.devices()[:devices])


def test_last_and_best_are_kept(tmp_path: Path) -> None:
    state, _, fresh = trained("all")
    scores = {1: 0.1, 2: 0.7, 3: 0.3, 4: 0.7, 5: 0.2, 6: None}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.best_step() is None
        for step, score in scores.items():
            at = state._replace(
                step=jnp.asarray(step, jnp.int32),
                ema={path: leaf + step for path, leaf in state.ema.items()},
            )
            checkpoints.save(at, RUN, None if score is None else {BEST_METRIC: score})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 6
        best = checkpoints.best_step()
        assert best in (2, 4)  # equals: either
        steps = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
        assert steps == {best, 6}
        parameters, statistics = checkpoints.restore_model(
            best, evaluated_parameters(fresh()), fresh().statistics
        )
    for path, leaf in parameters.items():
        np.testing.assert_array_equal(leaf, state.ema[path] + best)
    for path, leaf in statistics.items():
        np.testing.assert_array_equal(leaf, state.statistics[path])


def test_a_checkpoint_of_another_model_names_a_leaf(tmp_path: Path) -> None:
    state, *_ = trained("all")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, RUN, None)
        path = "head/classify/kernel"
        wider = state._replace(ema={**state.ema, path: jnp.zeros((8, 9))})
        with pytest.raises(UserError, match=path):
            checkpoints.restore(wider)
        more = state._replace(ema={**state.ema, "head/extra/kernel": jnp.zeros((2, 2))})
        with pytest.raises(UserError, match="head/extra/kernel"):
            checkpoints.restore(more)


def test_what_orbax_swallows_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it lists the leaves, for one."""
    state, _, fresh = trained("all")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, RUN, None)

        swallowed = SimpleNamespace(metadata={"model": None, "training": None})
        with monkeypatch.context() as patch:
            patch.setattr(
                type(checkpoints._checkpointer), "checkpointables_metadata", lambda *_: swallowed
            )
            with pytest.raises(UserError, match="give the same command again"):
                checkpoints.restore(fresh())
        restored = checkpoints.restore(fresh())
    assert restored is not None
    assert int(restored.step) == 2


@pytest.mark.parametrize("when", ["save_checkpointables", "close"])
def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """TensorStore's message goes on with the places in its source."""
    state, *_ = trained("all")
    checkpoints = Checkpoints(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise ValueError("Failed to write: No space left on device [os_error_code='28']\nat a.cc:3")

    def save_and_close() -> None:
        checkpoints.save(state, RUN, None)
        checkpoints.close()

    with monkeypatch.context() as patch:
        patch.setattr(type(checkpoints._checkpointer), when, full)
        with pytest.raises(UserError, match="No space left on device; make room") as caught:
            save_and_close()
    assert "\n" not in str(caught.value)
    checkpoints.close()


def test_orbax_prints_no_traceback_of_what_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path):
        for path, exc_info in (
            ("/x/orbax/a.py", (OSError, OSError(), None)),
            ("/x/orbax/b.py", None),
            ("/x/other/c.py", (OSError, OSError(), None)),
        ):
            logger = logging.getLogger("absl")
            logger.handle(logger.makeRecord("absl", logging.ERROR, path, 1, path, (), exc_info))
    assert [record.getMessage() for record in caplog.records] == ["/x/orbax/b.py", "/x/other/c.py"]


def test_a_draft_left_by_a_kill_is_no_checkpoint(tmp_path: Path) -> None:
    state, _, fresh = trained("all")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, RUN, None)
    (draft,) = [path for path in tmp_path.iterdir() if path.name == "2"]
    draft.rename(tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(fresh()) is None
        checkpoints.save(state, RUN, None)
        assert checkpoints.latest_step() == 2


def test_leaf_mismatches_lists_all() -> None:
    wanted = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    found = {"b": jnp.zeros(4), "c": jnp.zeros(1)}
    assert leaf_mismatches(wanted, found) == [
        "missing: a",
        "unused: c",
        "b: (4,) where the model has (3,)",
    ]
    assert leaf_mismatches(wanted, wanted) == []
