"""The directories of a stage's checkpoints, named by their steps: which exist, and which stay."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from product_mil.files.digests import what_is_damaged
from product_mil.files.outputs import DRAFT_PREFIX

BEST_METRIC = "valid/top1"
_KEPT_LATEST = 2  # two, since the last one may be damaged
_METRICS_FILE = Path("metrics", "metrics")  # as in older checkpoints, which Orbax's manager wrote


class StepDirectories:
    """The checkpoints in a directory; `whole` are those whose digests were checked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.whole: set[int] = set()

    def path(self, step: int) -> Path:
        """The directory of a step's checkpoint."""
        return self.directory / str(step)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def best_first(self) -> list[int]:
        """All steps: those that were evaluated by their validation top-1, then the others."""
        scores = self._scores()
        return sorted(
            self.steps(), key=lambda step: (step in scores, scores.get(step, 0), step), reverse=True
        )

    def _scores(self) -> dict[int, float]:
        found = {}
        for step in self.steps():
            with suppress(OSError, ValueError, KeyError, TypeError):  # not evaluated, or damaged
                content = json.loads((self.path(step) / _METRICS_FILE).read_bytes())
                found[step] = float(content[BEST_METRIC])
        return found

    def write_score(self, draft: Path, score: float) -> None:
        """Write the validation top-1 into a draft."""
        file = draft / _METRICS_FILE
        file.parent.mkdir()
        file.write_text(json.dumps({BEST_METRIC: score}), encoding="utf-8")

    def publish(self, draft: Path, step: int) -> None:
        """Rename a draft to its step, and keep only the last two checkpoints and the best one."""
        self._remove(step)  # from an earlier attempt
        draft.rename(self.path(step))
        self.whole.add(step)
        kept = set(self.steps()[-_KEPT_LATEST:]) | set(self.best_first()[: bool(self._scores())])
        for old in set(self.steps()) - kept:
            self._remove(old)

    def _remove(self, step: int) -> None:
        """Remove a checkpoint. It is renamed first, so readers never see a part of it."""
        going = self.directory / f"{DRAFT_PREFIX}{step}-removed"
        with suppress(FileNotFoundError):
            self.path(step).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def remove_drafts(self) -> None:
        """Remove drafts that killed processes of this or older versions left."""
        for path in self.directory.iterdir():
            if path.name.startswith(DRAFT_PREFIX) or "orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, and return its new path."""
        number, aside = 1, self.directory / f"damaged-{step}"
        while os.path.lexists(aside):
            number += 1
            aside = self.directory / f"damaged-{step}-{number}"
        self.path(step).rename(aside)
        return aside

    def damage(self, step: int) -> str | None:
        """The damage to a checkpoint's files; None if there is none.

        Raises:
            FileNotFoundError: the checkpoint has no digests.
        """
        if step in self.whole:
            return None
        try:
            found = what_is_damaged(self.path(step))
        except FileNotFoundError:
            raise
        except OSError as error:
            found = error.strerror or str(error)
        if found is None:
            self.whole.add(step)
        return found
