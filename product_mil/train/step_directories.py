"""The checkpoints of a stage as directories, each named by its step: which there are, which go."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from product_mil.files.outputs import DRAFT_PREFIX
from product_mil.train.digests import what_is_damaged

BEST_METRIC = "valid/top1"
_KEPT_LATEST = 2  # the last one may be damaged
_METRICS_FILE = Path("metrics", "metrics")  # as Orbax's own manager, which wrote older ones, has it


class StepDirectories:
    """Directories below one; `whole` are those whose digests were found right."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.whole: set[int] = set()

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
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
        """Note the validation top-1 in a draft."""
        file = draft / _METRICS_FILE
        file.parent.mkdir()
        file.write_text(json.dumps({BEST_METRIC: score}), encoding="utf-8")

    def publish(self, draft: Path, step: int) -> None:
        """Give a draft its name, and remove what is neither among the last two nor the best."""
        self._remove(step)  # one of an earlier try
        draft.rename(self.path(step))
        self.whole.add(step)
        kept = set(self.steps()[-_KEPT_LATEST:]) | set(self.best_first()[: bool(self._scores())])
        for old in set(self.steps()) - kept:
            self._remove(old)

    def _remove(self, step: int) -> None:
        """Remove a checkpoint, at once for whoever reads there."""
        going = self.directory / f"{DRAFT_PREFIX}{step}-removed"
        with suppress(FileNotFoundError):
            self.path(step).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def remove_drafts(self) -> None:
        """Remove what a killed process left, of this version and of older ones."""
        for path in self.directory.iterdir():
            if path.name.startswith(DRAFT_PREFIX) or "orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)

    def set_aside(self, step: int) -> Path:
        """Give a damaged checkpoint another name, which is returned."""
        number, aside = 1, self.directory / f"damaged-{step}"
        while os.path.lexists(aside):
            number += 1
            aside = self.directory / f"damaged-{step}-{number}"
        self.path(step).rename(aside)
        return aside

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint's files; None where they are whole.

        Raises:
            FileNotFoundError: it has no digests.
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
