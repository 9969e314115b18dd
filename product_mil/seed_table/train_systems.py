"""Train every system within its share of the budget, measure it and write the table."""

import logging
import signal
import time
from collections.abc import Sequence

from product_mil.config import Config
from product_mil.errors import Interrupted
from product_mil.runs.run import run
from product_mil.seed_table.length import measure_cost, shortening, with_steps
from product_mil.seed_table.measure import measure
from product_mil.seed_table.plan import Planned, TableOptions
from product_mil.seed_table.progress import Progress
from product_mil.seed_table.table import publish

STARTING_S = 20.0  # with less time than this, the training of a system is not continued
WORTHWHILE = 1.5  # a shortened system is trained again only with at least this many times its steps
_LOGGER = logging.getLogger(__name__)


def train_systems(
    planned: Sequence[Planned], left_out: Sequence[str], options: TableOptions
) -> None:
    """Train and measure every system, and write the table after each of them.

    A first round trains each system once. A second round gives the time that is left to the systems
    that had too little.

    Raises:
        Interrupted: the user asked to stop. Everything is saved.
    """
    progress = {system.name: Progress(options.output, system.name) for system in planned}
    budget_s = options.budget_minutes * 60

    def left_s() -> float:
        return budget_s - sum(each.spent_s for each in progress.values())

    for name in left_out:
        _LOGGER.info("left out: %s", name)
    for again in (False, True):
        waiting = [
            system
            for system in planned
            if ((own := progress[system.name]).row is None and not again)
            or ((own.unfinished or own.shortened) and left_s() > STARTING_S)
        ]
        for number, system in enumerate(waiting):
            own = progress[system.name]
            share_s = left_s() * system.share / sum(each.share for each in waiting[number:])
            if own.row is not None and not _goes_on(own, share_s):
                continue
            _LOGGER.info("== %s: up to %.0f s of %.0f s left", system.name, share_s, left_s())
            cut = _train(system, own, share_s)
            own.measured(measure(system, own, options, cut=cut))
            publish(planned, progress, left_out, options)
    publish(planned, progress, left_out, options)


def _goes_on(own: Progress, share_s: float) -> bool:
    """Whether a system that is in the table already gets more time.

    Where its training was shortened, this also sets the new, longer length.
    """
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


def _train(system: Planned, own: Progress, share_s: float) -> bool:
    """Train for at most `share_s`, with as many steps as fit. Returns whether time ran out."""
    started = time.monotonic()
    deadline = started + share_s
    own.start()
    try:
        config = _fitting(system.config, own, deadline)
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
    """The configuration with as many steps as were chosen when its cost was first measured."""
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
