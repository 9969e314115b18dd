"""What is known of a rung between sessions: time spent, the length decided on, its line."""

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
    """One rung's file and directory."""

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
        if self._found["started"] is not None:  # it was killed: count until its last sign of life
            signs = [path.stat().st_mtime for path in self.workdir.rglob("*") if path.is_file()]
            lost_s = max([*signs, self._found["started"]]) - self._found["started"]
            self._keep(spent_s=self.spent_s + lost_s, started=None)

    @property
    def spent_s(self) -> float:
        """Seconds of training over all sessions."""
        return self._found["spent_s"]

    @property
    def training_s(self) -> float:
        """Seconds of the present training."""
        return self.spent_s - self._found["before_s"]

    @property
    def cost(self) -> RunCost | None:
        """What its training costs; None before it was measured."""
        found = self._found["cost"]
        return None if found is None else RunCost.from_dict(found)

    @property
    def steps(self) -> dict[str, int] | None:
        """The length of each stage that was decided on; None before that."""
        return self._found["steps"]

    @property
    def row(self) -> Row | None:
        """Its line of the table; None before it was measured."""
        return self._found["row"]

    @property
    def unfinished(self) -> bool:
        """Whether it has no line yet, was cut, or is being trained anew."""
        return self.row is None or self.row["cut_short"] or self.row["steps"] != self.steps

    @property
    def shortened(self) -> bool:
        """Whether the length decided on is less than what its configuration asks for."""
        return self.steps is not None and self.cost is not None and self.steps != self.cost.steps

    def start(self) -> None:
        """A session of training begins."""
        self._keep(started=time.time())

    def stop(self, spent_s: float) -> None:
        """It ended after so long."""
        self._keep(started=None, spent_s=self.spent_s + spent_s)

    def decide(self, cost: RunCost, steps: Mapping[str, int]) -> None:
        """Keep the length, and what it was decided by."""
        self._keep(cost=cost.to_dict(), steps=dict(steps))

    def lengthen(self, steps: Mapping[str, int]) -> None:
        """Decide on a longer training, from its beginning; the shorter run is kept beside it."""
        kept = self.workdir.with_name(f"{self.workdir.name}-shortened")
        shutil.rmtree(kept, ignore_errors=True)
        self.workdir.replace(kept)
        self._keep(steps=dict(steps), before_s=self.spent_s)

    def measured(self, row: Row) -> None:
        """Keep the line, with the length and the time that it is of.

        What was cut before it could take the place of a shorter training that is complete does not.
        """
        if row["cut_short"] and self.row is not None and not self.row["cut_short"]:
            return
        self._keep(row=row | {"steps": self.steps, "train_s": self.training_s})

    def _keep(self, **changed: Any) -> None:
        self._found |= changed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._found)
