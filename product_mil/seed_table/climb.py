"""Train every rung within its share of the budget, measure it, and write the table."""

import logging
import signal
import time
from collections.abc import Sequence

from product_mil.config import Config
from product_mil.errors import Interrupted
from product_mil.runs.run import run
from product_mil.seed_table.length import measure_cost, shortening, with_steps
from product_mil.seed_table.measure import measure
from product_mil.seed_table.plan import Ladder, Planned
from product_mil.seed_table.progress import Progress
from product_mil.seed_table.table import publish

STARTING_S = 20.0  # no rung is gone on with for less
WORTHWHILE = 1.5  # a shortened rung is trained anew for so many times its steps
_LOGGER = logging.getLogger(__name__)


def climb(planned: Sequence[Planned], left_out: Sequence[str], ladder: Ladder) -> None:
    """Train, measure and tabulate; first every rung once, then on those that had too little time.

    Raises:
        Interrupted: asked to stop; all is saved.
    """
    progress = {rung.name: Progress(ladder.output, rung.name) for rung in planned}
    budget_s = ladder.budget_minutes * 60

    def left_s() -> float:
        return budget_s - sum(each.spent_s for each in progress.values())

    for name in left_out:
        _LOGGER.info("left out: %s", name)
    for again in (False, True):
        waiting = [
            rung
            for rung in planned
            if ((own := progress[rung.name]).row is None and not again)
            or ((own.unfinished or own.shortened) and left_s() > STARTING_S)
        ]
        for number, rung in enumerate(waiting):
            own = progress[rung.name]
            share_s = left_s() * rung.share / sum(each.share for each in waiting[number:])
            if own.row is not None and not _goes_on(own, share_s):
                continue
            _LOGGER.info("== %s: up to %.0f s of %.0f s left", rung.name, share_s, left_s())
            cut = _train(rung, own, share_s)
            own.measured(measure(rung, own, ladder, cut=cut))
            publish(planned, progress, left_out, ladder)
    publish(planned, progress, left_out, ladder)


def _goes_on(own: Progress, share_s: float) -> bool:
    """Whether a rung that has its line gets more time; decides on its new length."""
    if share_s < STARTING_S:
        return False
    if own.unfinished:
        return True
    if own.cost is None or own.steps is None:
        return False
    longer = own.cost.steps_within(share_s)
    whole, worthwhile = own.cost.steps, longer != own.steps
    for name, count in own.steps.items():
        worthwhile &= longer[name] == whole[name] or longer[name] >= max(WORTHWHILE * count, 1)
    if not worthwhile:
        return False
    own.lengthen(longer)
    return True


def _train(rung: Planned, own: Progress, share_s: float) -> bool:
    """Train for so long at most, at a length that fits; whether it was cut short all the same."""
    started = time.monotonic()
    deadline = started + share_s
    own.start()
    try:
        config = _fitting(rung.config, own, deadline)
        run(config, own.workdir, deadline)
    except Interrupted as stopped:
        if stopped.signal != signal.SIGTERM or time.monotonic() < deadline:
            raise  # asked by the user
        _LOGGER.info("%s", stopped)
        return True
    finally:
        own.stop(time.monotonic() - started)
    return False


def _fitting(config: Config, own: Progress, deadline: float) -> Config:
    """The configuration at the length that was decided on, once."""
    if own.steps is None or own.cost is None:
        cost = measure_cost(config, own.workdir, deadline)
        own.decide(cost, cost.steps_within(deadline - time.monotonic()))
    assert own.steps is not None
    assert own.cost is not None
    shorter = shortening(own.steps, own.cost.steps)
    if not shorter:
        return config
    _LOGGER.info("shortened to %s", shorter)
    return with_steps(config, own.steps)
