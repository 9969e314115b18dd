"""The directory of predictions of many units: what lies where, and which units are done.

job.json            what all units have in common: the checkpoint and the settings
parquet/NAME.parquet, csv/NAME.csv
faults/NAME.csv     where there are faults
done/NAME.json      written last: a unit is done if this is there, and the sizes in it are right
failed/NAME.json    why a unit could not be predicted
manifest.json       all units, once each is done or has failed
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from product_mil.errors import OutputError, UserError
from product_mil.files.formats import refuse_unknown_format
from product_mil.files.outputs import Kind
from product_mil.files.whole import write_json
from product_mil.version import __version__

FORMAT = 1
JOB, MANIFEST = "job.json", "manifest.json"
PARQUET, CSV, FAULT_LISTS = "parquet", "csv", "faults"
UNIT_FILES = Kind("a directory of predict-files", (), lambda directory: (directory / JOB).is_file())
_MODEL = ("stage", "step", "checkpoint")  # of a job: what says which model predicts
_FLAGS = {"views": "tta", "tau": "logit_adjustment"}  # the flags of settings with other names
_DONE, _FAILED, _LOCKS = "done", "failed", "locks"


@dataclass(frozen=True)
class Done:
    """A unit that is predicted."""

    spec: str
    part: int
    parts: int
    state: str  # of the file: `Unit.state`
    data: str  # the fingerprint of the file's catalogue
    checkpoint: str  # the fingerprint of the run
    num_products: int
    num_images: int
    num_imageless: int  # products without a readable image
    num_faults: int
    size_bytes: dict[str, int]  # of its files, by their directory
    is_cut: bool = False  # the end of the file is missing


@dataclass(frozen=True)
class UnitFiles:
    """The files in the directory of `predict-files`."""

    directory: Path

    def begin(self, job: Mapping[str, Any]) -> None:
        """Make the directory for predictions by `job`, or go on in one.

        Raises:
            UserError: it was begun with another checkpoint, or other settings.
            OutputError: it cannot be written.
        """
        path = self.directory / JOB
        try:
            if not path.exists():
                self.directory.mkdir(exist_ok=True)
                write_json(path, {"format": FORMAT, "version": __version__, **job})
            for name in (PARQUET, CSV, FAULT_LISTS, _DONE, _FAILED):
                (self.directory / name).mkdir(exist_ok=True)
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write or read {path}: {error}") from None
        refuse_unknown_format(found.get("format"), (FORMAT,), found.get("version", "?"), path)
        for name, value in job.items():
            if found.get(name) != value:
                raise UserError(_other_job(self.directory, name, found.get(name), value))

    @property
    def locks(self) -> Path:
        """The directory for files of locks."""
        return self.directory / _LOCKS

    def parquet(self, name: str) -> Path:
        """The top classes of the products of a unit."""
        return self.directory / PARQUET / f"{name}.parquet"

    def csv(self, name: str) -> Path:
        """The submission of a unit."""
        return self.directory / CSV / f"{name}.csv"

    def faults(self, name: str) -> Path:
        """The list of faults of a unit."""
        return self.directory / FAULT_LISTS / f"{name}.csv"

    def sizes(self, name: str) -> dict[str, int]:
        """The sizes of the files of a unit, by directory."""
        found = {}
        for path in (self.parquet(name), self.csv(name), self.faults(name)):
            with suppress(FileNotFoundError):
                found[path.parent.name] = path.stat().st_size
        return found

    def done(self, name: str) -> Done | None:
        """What is known of a unit that is done; None if it is not, or if it is damaged."""
        try:
            text = (self.directory / _DONE / f"{name}.json").read_text(encoding="utf-8")
            known = json.loads(text)
            names = {field.name for field in fields(Done)}
            found = Done(**{name: known[name] for name in names & known.keys()})
        except (OSError, ValueError, AttributeError, TypeError):
            return None
        return found if self.sizes(name) == found.size_bytes else None

    def failure(self, name: str) -> str | None:
        """Why a unit could not be predicted; None if that is not known of it."""
        try:
            text = (self.directory / _FAILED / f"{name}.json").read_text(encoding="utf-8")
            return str(json.loads(text)["reason"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def clear_damaged(self, name: str) -> None:
        """Remove the files of a unit that was done, and is no more.

        A unit that was never done has whole files only: another process may be at it now.
        """
        if (self.directory / _DONE / f"{name}.json").exists() and self.done(name) is None:
            for path in (self.parquet(name), self.csv(name), self.faults(name)):
                path.unlink(missing_ok=True)

    def finish(self, name: str, done: Done) -> None:
        """Note that a unit is done, when its files are complete.

        Raises:
            OutputError: a file of it has been removed meanwhile.
        """
        wanted = {CSV, PARQUET} if done.num_products else {CSV}
        if not wanted <= done.size_bytes.keys():
            raise OutputError(f"files of {name} in {self.directory} were removed: start again")
        write_json(self.directory / _DONE / f"{name}.json", asdict(done))
        self.forget_failure(name)

    def forget_failure(self, name: str) -> None:
        """Remove the reason why a unit could not be predicted before."""
        (self.directory / _FAILED / f"{name}.json").unlink(missing_ok=True)

    def fail(self, name: str, reason: str) -> None:
        """Note why a unit cannot be predicted."""
        write_json(self.directory / _FAILED / f"{name}.json", {"reason": reason})


def _other_job(directory: Path, name: str, found: Any, value: Any) -> str:
    """What to tell where the value `name` of a job is not the one that `directory` was begun with.

    A whole number has no ".0", as people type it.
    """
    was, now = (str(one).removesuffix(".0") for one in (found, value))
    if name in _MODEL:
        return (
            f"{directory} holds predictions of another model (their fingerprints differ): it was "
            f"begun with {name} {was}, not {now}; name the --workdir and --checkpoint that it was "
            "begun with, or another --output"
        )
    flag = f"--{_FLAGS.get(name, name)}"
    how = f"without {flag}" if found is None else f"with {flag} {was}"
    return f"{directory} was begun {how}: go on {how}, or name another --output"
