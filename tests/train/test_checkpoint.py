import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from product_mil.devices.mesh import put_batch, replicate
from product_mil.errors import UserError
from product_mil.files.digests import DIGEST_FILE
from product_mil.train.checkpoint import BEST_METRIC, Checkpoints, DamagedCheckpoint
from product_mil.train.checkpoint_parts import leaf_mismatches, parts_of
from product_mil.train.state import evaluated_parameters
from tests.train.tiny import KEY, batch_of, frozen_stage, host, mesh_of, prepared, start

RUN = {"format": 1, "categories": {"ids": [3, 5]}, "name": "Tee- und Kaffeekännchen \udcff"}


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
        assert checkpoints.steps() == [2]
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


def save_steps(directory: Path, state: Any, scores: Mapping[int, float | None]) -> None:
    """A checkpoint for each step, whose averaged parameters are `state`'s plus the step."""
    with Checkpoints(directory) as checkpoints:
        for step, score in scores.items():
            at = state._replace(
                step=jnp.asarray(step, jnp.int32),
                ema={path: leaf + step for path, leaf in state.ema.items()},
            )
            checkpoints.save(at, RUN, None if score is None else {BEST_METRIC: score})


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    state, _, fresh = trained("all")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.best_first() == []
    save_steps(tmp_path, state, {1: 0.1, 2: 0.7, 3: 0.3, 4: 0.7, 5: 0.2, 6: None})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [4, 5, 6] == checkpoints.best_first()
        assert {path.name for path in tmp_path.iterdir()} == {"4", "5", "6"}
        parameters, statistics = checkpoints.restore_model(
            4, evaluated_parameters(fresh()), fresh().statistics
        )
    for path, leaf in parameters.items():
        np.testing.assert_array_equal(leaf, state.ema[path] + 4)
    for path, leaf in statistics.items():
        np.testing.assert_array_equal(leaf, state.statistics[path])
    save_steps(tmp_path, state, {7: 0.9, 8: 0.1})
    assert {path.name for path in tmp_path.iterdir()} == {"7", "8"}


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
            patch.setattr(ocp, "checkpointables_metadata", lambda *_: swallowed)
            with pytest.raises(UserError, match="give the same command again"):
                checkpoints.restore(fresh())
        restored = checkpoints.restore(fresh())
    assert restored is not None
    assert int(restored.step) == 2


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorStore's message goes on with the places in its source."""
    state, _, fresh = trained("all")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, RUN, None)

        def full(path: str, *_: object, **__: object) -> None:
            (Path(path) / "half").mkdir(parents=True)
            raise ValueError(f"{path}: No space left on device [os_error_code='28']\nat a.cc:3")

        with monkeypatch.context() as patch:
            patch.setattr(ocp, "save_checkpointables", full)
            with pytest.raises(UserError, match="No space left on device; make room") as caught:
                checkpoints.save(state._replace(step=jnp.asarray(3, jnp.int32)), RUN, None)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "/proc/" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["2"]
        assert checkpoints.restore(fresh()) is not None


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
        assert checkpoints.steps() == []
        assert checkpoints.restore(fresh()) is None
        checkpoints.save(state, RUN, None)
        assert checkpoints.steps() == [2]


def test_leaf_mismatches_lists_all() -> None:
    wanted = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    found = {"b": jnp.zeros(4), "c": jnp.zeros(1)}
    assert leaf_mismatches(wanted, found) == [
        "missing: a",
        "unused: c",
        "b: (4,) where the model has (3,)",
    ]
    assert leaf_mismatches(wanted, wanted) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """One bit, at a place that differs from file to file."""
    content = bytearray(path.read_bytes())
    content[sum(path.name.encode()) % len(content)] ^= 16
    path.write_bytes(content)


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES: tuple[Callable[[Path], None], ...] = (cut, zeroed, emptied, flipped, grown, Path.unlink)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory with the checkpoints of steps 2 and 3, and what makes a state to restore into."""
    directory = tmp_path_factory.mktemp("two") / "steps"
    state, _, fresh = trained("all")
    save_steps(directory, state, {2: 0.5, 3: 0.6})
    return directory, fresh


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_any_file_that_is_damaged_is_reported(
    two_steps: tuple[Path, Any], damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Whatever was done to whatever file, the checkpoint before it is the last whole one."""
    directory, _ = two_steps
    names = [path.relative_to(directory) for path in (directory / "3").rglob("*") if path.is_file()]
    assert len(names) > 10
    for number, name in enumerate(names):
        if damage in (cut, zeroed, emptied, flipped) and not (directory / name).stat().st_size:
            continue
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        damage(copy / name)
        with Checkpoints(copy, read_only=True) as checkpoints:
            assert checkpoints.proven_step() == 2, name
            with pytest.raises(DamagedCheckpoint, match=r"checkpoint 3 in .* is damaged"):
                checkpoints.run_record(3)


def test_a_damaged_one_is_set_aside_and_the_one_before_it_used(
    two_steps: tuple[Path, Any], tmp_path: Path
) -> None:
    directory, fresh = two_steps
    copy = tmp_path / "steps"
    shutil.copytree(directory, copy)
    for _ in range(2):  # the second time its name is taken
        flipped(copy / "3" / "model" / "_METADATA")
        with Checkpoints(copy) as checkpoints:
            restored = checkpoints.restore(fresh())
            assert restored is not None
            assert int(restored.step) == 2
            (line,) = checkpoints.set_aside
            assert "checkpoint 3 " in line
            assert "model/_METADATA was changed or cut" in line
            assert "damaged-3" in line
            checkpoints.save(restored._replace(step=jnp.asarray(3, jnp.int32)), RUN, None)
    names = {path.name for path in copy.iterdir()}
    assert names == {"2", "3", "damaged-3", "damaged-3-2"}
    for step in (2, 3):
        (copy / str(step) / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.restore(fresh()) is None
        assert "the stage begins anew" in checkpoints.set_aside[-1]


def saved_by_orbax_alone(directory: Path, state: Any) -> None:
    """Steps 2 and 3 as they were before there were digests."""
    with ocp.training.Checkpointer(str(directory)) as checkpointer:
        for step, score in ((2, 0.7), (3, 0.6)):
            checkpointer.save_checkpointables(
                step,
                parts_of(state._replace(step=jnp.asarray(step, jnp.int32))),
                metrics={BEST_METRIC: score},
                custom_metadata={"name": "old"},
            )


def test_older_checkpoints_without_digests(tmp_path: Path) -> None:
    """They are read, and one that cannot be is set aside as well."""
    state, _, fresh = trained("all")
    saved_by_orbax_alone(tmp_path / "a", state)
    with Checkpoints(tmp_path / "a") as checkpoints:
        assert checkpoints.best_first() == [2, 3]
        assert checkpoints.run_record(3) == {"name": "old"}
        assert checkpoints.proven_step() is None
        restored = checkpoints.restore(fresh())
        assert restored is not None
        assert int(restored.step) == 3
        assert_equal(restored._replace(step=state.step), state)
    for number, name in enumerate(
        ("_CHECKPOINT_METADATA", "model/_METADATA", "training/_METADATA")
    ):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "a", copy)
        emptied(copy / "3" / name)
        with Checkpoints(copy) as checkpoints:
            restored = checkpoints.restore(fresh())
            assert restored is not None, name
            assert int(restored.step) == 2
            assert (copy / "damaged-3").is_dir()


def test_digests_that_should_be_there(two_steps: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(two_steps[0], tmp_path / "steps")
    (tmp_path / "steps" / "3" / DIGEST_FILE).unlink()
    with Checkpoints(tmp_path / "steps", read_only=True) as checkpoints:
        with pytest.raises(DamagedCheckpoint, match="its digests are missing"):
            checkpoints.run_record(3)
        assert checkpoints.run_record(2) == RUN


def test_a_newer_format_is_one_line(tmp_path: Path) -> None:
    state, _, _ = trained("all")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {"format": 7, "version": "9.9"}, None)
        with pytest.raises(UserError, match=r"format 7, written by product_mil 9\.9") as caught:
            checkpoints.run_record(2)
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        b"a [2]",
        b"[x]",
        b"*?",
        b"12:30:00",
        b"#1 %20",
        b"new\nline",
        b"\xff\xfe",
        b"back\\slash",
        b"gs:",
        b"~",
        b"-dash",
        b"x" * 250,
    ],
)
def test_names_of_directories(name: bytes, tmp_path: Path) -> None:
    state, _, fresh = trained("all")
    directory = tmp_path / os.fsdecode(name) / "steps"
    save_steps(directory, state, {2: 0.5, 3: 0.7})
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore(fresh()) is not None
        assert checkpoints.run_record(3) == RUN
        wider = state._replace(ema={**state.ema, "head/classify/kernel": jnp.zeros((8, 9))})
        with pytest.raises(UserError, match="head/classify/kernel") as caught:
            checkpoints.restore(wider)
    assert str(directory) in str(caught.value)
