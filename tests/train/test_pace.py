"""What `test_loop.py` does not see of a whole stage."""

from typing import Any

import jax.numpy as jnp
import pytest

from product_mil.errors import UserError
from product_mil.train.pace import StepsInFlight, TimeLeft


def test_a_loss_is_looked_at_two_steps_later_and_logged_with_its_own_step() -> None:
    in_flight = StepsInFlight("head")
    in_flight.add(7, jnp.asarray(jnp.nan))
    in_flight.add(8, jnp.asarray(1.0))
    with pytest.raises(UserError, match=r"the loss is nan at step 7 of stage head"):
        in_flight.add(9, jnp.asarray(1.0))
    in_flight.drain()
    in_flight.add(10, jnp.asarray(jnp.inf))
    with pytest.raises(UserError, match="at step 10"):
        in_flight.drain()


def test_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    clock: Any = lambda: now[0]  # noqa: E731
    monkeypatch.setattr("product_mil.train.pace.time.monotonic", clock)
    left = TimeLeft(num_steps=20)
    assert left.seconds(4) == 0
    left.begin(5)
    assert left.seconds(5) == 0
    now[0] += 6
    assert left.seconds(8) == 24  # 2 s a step, 12 steps
    assert left.is_time_to_log(8)
    now[0] += 59
    assert not left.is_time_to_log(8)
    now[0] += 1
    assert left.is_time_to_log(8)
    with left.evaluating():  # compiles
        now[0] += 1000
    assert left.seconds(13) == 66 / 8 * 7
    with left.evaluating():
        now[0] += 30
    assert left.seconds(17) == 96 / 12 * 3
    assert not left.is_time_to_log(20)  # nothing is left
