"""What is kept of a system between sessions: time spent, chosen length, row of the table."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from product_mil.files.whole import write_json
from product_mil.seed_table.length import RunCost

Row = dict[str, Any]


class Progress:
    """The state of one system, kept in a file beside its run's directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.workdir = directory / "runs" / name
        self._path = directory / "runs" / f"{name}.json"
        self._found: dict[str, Any] = {
            "spent_s": 0.0,  # over all sessions
            "before_s": 0.0,  # of them, on a shorter training that was given up
            "started": None,
            "cost": None,
            "steps": None,
            "row": None,
        }
        if self._path.exists():
            self._found |= json.loads(self._path.read_text(encoding="utf-8"))
        if self._found["started"] is not None:  # it was killed: count until it last wrote a file
            signs = [path.stat().st_mtime for path in self.workdir.rglob("*") if path.is_file()]
            lost_s = max([*signs, self._found["started"]]) - self._found["started"]
            self._keep(spent_s=self.spent_s + lost_s, started=None)

    @property
    def spent_s(self) -> float:
        """Seconds of training over all sessions."""
        return self._found["spent_s"]

    @property
    def training_s(self) -> float:
        """Seconds of the current training, without that of a shorter one before it."""
        return self.spent_s - self._found["before_s"]

    @property
    def cost(self) -> RunCost | None:
        """What the training costs; None before it was measured."""
        found = self._found["cost"]
        return None if found is None else RunCost.from_dict(found)

    @property
    def steps(self) -> dict[str, int] | None:
        """The chosen number of steps of each stage; None before they are chosen."""
        return self._found["steps"]

    @property
    def row(self) -> Row | None:
        """The row of the table; None before the system was measured."""
        return self._found["row"]

    @property
    def unfinished(self) -> bool:
        """Whether it has no row yet, ran out of time, or is being trained again for longer."""
        return self.row is None or self.row["cut_short"] or self.row["steps"] != self.steps

    @property
    def shortened(self) -> bool:
        """Whether the chosen number of steps is less than the configuration asks for."""
        return self.steps is not None and self.cost is not None and self.steps != self.cost.steps

    def start(self) -> None:
        """Note that a session of training begins."""
        self._keep(started=time.time())

    def stop(self, spent_s: float) -> None:
        """Note that the session ended after `spent_s` seconds."""
        self._keep(started=None, spent_s=self.spent_s + spent_s)

    def decide(self, cost: RunCost, steps: Mapping[str, int]) -> None:
        """Keep the chosen numbers of steps, and the cost by which they were chosen."""
        self._keep(cost=cost.to_dict(), steps=dict(steps))

    def lengthen(self, steps: Mapping[str, int]) -> None:
        """Start again with more steps; the shorter run is moved to `<name>-shortened`."""
        kept = self.workdir.with_name(f"{self.workdir.name}-shortened")
        shutil.rmtree(kept, ignore_errors=True)
        self.workdir.replace(kept)
        self._keep(steps=dict(steps), before_s=self.spent_s)

    def measured(self, row: Row) -> None:
        """Keep the row, with the steps and the seconds of the training that it measures.

        A row of a training that ran out of time does not replace that of a complete, shorter one.
        """
        if row["cut_short"] and self.row is not None and not self.row["cut_short"]:
            return
        self._keep(row=row | {"steps": self.steps, "train_s": self.training_s})

    def _keep(self, **changed: Any) -> None:
        self._found |= changed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._found)
