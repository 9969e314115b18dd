"""A run's directory: checks that it is a run's, a lock while it trains, and its JSON files."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from product_mil.errors import UserError
from product_mil.files.outputs import names_in
from product_mil.train.record import refuse_newer

CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
LOCK_FILE = "lock"
HOSTS = "hosts"  # a directory in which several processes of a run see each other
# Files that a killed start, or a measurement before it, leaves before the run has begun.
_LEFT_OVERS = (LOCK_FILE, HOSTS, "log.txt", f"{CONFIG_FILE}.draft")


def read_record(path: Path, advice: str) -> dict[str, Any] | None:
    """The content of a run's JSON file; None if there is none.

    Raises:
        UserError: the file is damaged (the message ends with `advice`), or of a newer format.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise UserError(f"{path} is damaged ({reason}); {advice}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is no record of a run); {advice}")
    refuse_newer(found, path)
    return found


def stored_config(workdir: Path) -> dict[str, Any] | None:
    """The configuration of the run in a directory; None if no run has begun.

    Raises:
        UserError: the configuration is damaged, newer than this version or not that of a run.
    """
    there = workdir / RUN_FILE
    advice = (
        f"remove it: {RUN_FILE} holds the configuration too"
        if there.is_file()
        else "choose another --workdir"
    )
    found = read_record(workdir / CONFIG_FILE, advice)
    if found is None and there.is_file():
        found = (read_record(there, "choose another --workdir") or {}).get("config", {})
    if found is None:
        return None
    if not isinstance(found, dict) or not {"data", "model"} <= found.keys():
        raise UserError(f"{workdir}: its {CONFIG_FILE} is no run's; choose another --workdir")
    return {name: value for name, value in found.items() if name not in ("format", "version")}


def refuse_newer_run(workdir: Path) -> None:
    """Refuse a run that a newer version wrote. Damaged files are ignored.

    Raises:
        UserError: as `refuse_newer` does.
    """
    for name in (CONFIG_FILE, RUN_FILE):
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads((workdir / name).read_bytes())
            if isinstance(found, dict):
                refuse_newer(found, workdir / name)


def checkpoint_directory(workdir: Path, stage: str) -> Path:
    """The directory of a stage's checkpoints."""
    return workdir / "checkpoints" / stage


@contextmanager
def training_in(workdir: Path) -> Iterator[None]:
    """Make the directory if it is missing, and lock it against other trainings.

    If the body ends before a run has begun, everything that was made is removed.

    Raises:
        UserError: another process trains there, the directory has other files, or cannot be made.
    """
    _refuse_foreign(workdir)
    try:
        made = _make(workdir)
        lock = _Lock(workdir / LOCK_FILE)
    except OSError as error:
        raise UserError(
            f"cannot write to {workdir}: {error.strerror or error}; choose another --workdir"
        ) from None
    try:
        yield
    finally:
        begun = (workdir / CONFIG_FILE).exists() or (workdir / RUN_FILE).exists()
        lock.release(remove=not begun)
        if not begun:
            for directory in reversed(made):
                with suppress(OSError):
                    directory.rmdir()


def _refuse_foreign(workdir: Path) -> None:
    """Refuse a path that is not a directory, or a directory with files that are not a run's."""
    try:
        names = names_in(workdir)
    except FileNotFoundError:
        if workdir.is_symlink():
            raise UserError(f"{workdir} is a link to nowhere; choose another --workdir") from None
        return
    except NotADirectoryError:
        raise UserError(f"{workdir} is no directory; choose another --workdir") from None
    except OSError as error:
        raise UserError(
            f"cannot use {workdir}: {error.strerror or error}; choose another --workdir"
        ) from None
    others = names - set(_LEFT_OVERS)
    if others and CONFIG_FILE not in names and RUN_FILE not in names:
        raise UserError(
            f"{workdir} holds other files and no run ({sorted(others)[0]}, for one); choose "
            "another --workdir, or an empty one"
        )


def _make(workdir: Path) -> list[Path]:
    """Make the directory and its parents, and return those that were made, outermost first."""
    missing = [path for path in (workdir, *workdir.parents) if not path.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


class _Lock:
    """A locked file, which the system unlocks when its process ends or is killed."""

    def __init__(self, path: Path) -> None:
        """Lock the file.

        Raises:
            UserError: another process has the lock.
            OSError: the file cannot be made.
        """
        self._path = path
        while True:
            self._file = path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.seek(0)
                owner = self._file.read().strip() or "another process"
                self._file.close()
                raise UserError(
                    f"{path.parent} is being trained in by {owner}: wait for it or stop it, or "
                    "choose another --workdir"
                ) from None
            except OSError:
                pass  # a file system without locks
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                    break
            self._file.close()  # the process that had the lock has just removed the file
        self._file.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {began}\n")
        self._file.flush()

    def release(self, *, remove: bool) -> None:
        """Unlock the file, and leave it empty or remove it."""
        with suppress(OSError):
            if remove:
                self._path.unlink()
            self._file.truncate(0)
        self._file.close()
