"""Kinds of outputs, and the checks that an output never replaces a file that we did not write.

Every output of every command has a `Kind`, passes `check_output` before any work begins, and is
written whole or not at all (`files/whole.py`).
"""

import errno
import gzip
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from product_mil.errors import UserError

DRAFT_PREFIX = ".draft-"  # begins the names of all drafts, of files and of directories
_HEAD_BYTES = 4096
_MARK = "user.product_mil"
# Training writes these to a run's directory, so no other output may have these names there.
RUN_FILES = (
    "config.json", "run.json", "metrics.jsonl", "log.txt", "curves.png", "bad_records.csv",
    "checkpoints", "tensorboard", "products.npz", "lock",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of output: the endings of its file names, and a test for earlier outputs of it."""

    what: str  # with its article, for messages: "a submission"
    endings: tuple[str, ...]  # of file names, in lower case; "" for no ending; () for a directory
    is_former: Callable[[Path], bool]  # whether an existing file or directory is such an output

    @property
    def is_directory(self) -> bool:
        """Whether outputs of this kind are directories."""
        return not self.endings


def user_path(text: str) -> Path:
    """The path that a user typed as an argument of a command.

    `~` stands for the home directory, unless a file of exactly that name exists.
    """
    with suppress(RuntimeError):  # no such user, or no home directory
        if not os.path.lexists(text):
            return Path(text).expanduser()
    return Path(text)


def beside(path: Path, suffix: str) -> Path:
    """The path in the same directory whose name has this suffix added."""
    return path.parent / (path.name + suffix)


def check_output(path: Path, kind: Kind) -> None:
    """Refuse an output that cannot be written, or that would replace something else.

    Allowed are a new path, an empty file or directory, and an earlier output of the same kind. Call
    this before any work begins.

    Raises:
        UserError: the name is missing, too long or has a wrong ending; its directory is missing or
            cannot be written; or the path is a link, a device, a directory in place of a file (or
            the other way round), or anything that is not an earlier output of this kind.
    """
    if not path.name:
        raise UserError(f"'{path}' names no output: give it a name")
    if path == Path("-"):
        raise UserError("-: outputs are files, not standard output: name one")
    try:
        if path.is_dir() and not kind.is_directory:
            raise UserError(f"{path} is a directory: name a file")
        _refuse_ending(path, kind)
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no directory {path.parent}; make it first")
        _refuse_places_of_ours(path)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            written = path.parent
        else:
            refuse_to_replace(path, mode, kind)
            written = path if kind.is_directory else path.parent
        with tempfile.TemporaryFile(dir=written):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from None


def _refuse_places_of_ours(path: Path) -> None:
    """Refuse the paths of a run's own files, and everything inside of these and of indexes."""
    place = path.resolve()
    for inner in (place, *place.parents):
        owner = inner.parent
        if inner.name in RUN_FILES and any((owner / name).exists() for name in RUN_FILES[:2]):
            raise UserError(f"{path} belongs to the run in {owner}: choose another place")
        if inner.suffix == ".index" and inner.with_suffix("").is_file():
            raise UserError(
                f"{path} belongs to the index of {inner.with_suffix('')}: choose another"
            )


def _refuse_ending(path: Path, kind: Kind) -> None:
    given = path.name.lower() if path.suffix else ""
    right = [given.endswith(ending) if ending else not given for ending in kind.endings]
    if right and not any(right):
        *others, last = filter(None, kind.endings)
        known = f"{', '.join(others)} or {last}" if others else last
        raise UserError(f"{path}: name a {known} file for {kind.what}")


def refuse_to_replace(path: Path, mode: int, kind: Kind) -> None:
    """Refuse to replace an existing path unless it is empty or an earlier output of this kind.

    `mode` is the path's mode by `lstat`.

    Raises:
        UserError: the path is anything else.
    """
    if kind.is_directory:
        if not path.is_dir():
            raise UserError(f"{path} is a file: name a directory")
        if names_in(path) and not is_former(path, kind):
            raise UserError(
                f"{path} holds other files and is not {kind.what} written before: name a new "
                "directory"
            )
    elif not stat.S_ISREG(mode):
        raise UserError(f"{path} is a link or a device, and would be replaced: name a file")
    elif path.stat().st_size and not is_former(path, kind):
        raise UserError(
            f"{path} is there already and is not {kind.what} written before: choose another name, "
            "or move it away"
        )


def names_in(directory: Path) -> set[str]:
    """The names of all files in a directory, except drafts."""
    names = {path.name for path in directory.iterdir()}
    return {name for name in names if not name.startswith(DRAFT_PREFIX)}


def is_former(path: Path, kind: Kind) -> bool:
    """Whether the path is an earlier output of this kind."""
    try:
        return kind.is_former(path)
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
    ):  # absent or unreadable: not known to be ours
        return False


def csv_with_header(*headers: Sequence[str], marked: bool = False) -> Callable[[Path], bool]:
    """A test whether a file (compressed if its name ends in .gz) begins with one of these headers.

    `marked` also asks for the mark that `Draft.publish` leaves, where the file system can keep it,
    since other programs write files with the same header.
    """
    lines = tuple((",".join(columns) + "\n").encode() for columns in headers)

    def has_header(path: Path) -> bool:
        if marked and not _may_be_marked(path):
            return False
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read(_HEAD_BYTES).replace(b"\r\n", b"\n").startswith(lines)

    return has_header


def mark(file: IO[bytes]) -> None:
    """Note in the file's extended attributes, where there are any, that we wrote it."""
    if hasattr(os, "setxattr"):  # Linux
        with suppress(OSError):
            os.setxattr(file.fileno(), _MARK, b"1")


def _may_be_marked(path: Path) -> bool:
    if not hasattr(os, "getxattr"):
        return True
    try:
        os.getxattr(path, _MARK)
    except OSError as error:
        return error.errno == errno.ENOTSUP
    return True
