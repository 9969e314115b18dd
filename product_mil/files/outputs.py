"""Outputs appear whole or not at all, and never in the place of what we did not write.

Every output of every command has a `Kind`, passes `check_output` before any work begins, and is
written by way of a `Draft` beside it.
"""

import errno
import fcntl
import gzip
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from product_mil.errors import UserError

_DRAFT_PREFIX = ".draft-"
_HEAD_BYTES = 4096
_MARK = "user.product_mil"
# What training writes to a run's directory: no other output may have these names there.
RUN_FILES = (
    "config.json", "run.json", "metrics.jsonl", "log.txt", "curves.png", "bad_records.csv",
    "checkpoints", "tensorboard", "products.npz", "lock",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of output: how its names end, and how a former output of this kind is recognised."""

    what: str  # with its article, for messages: "a submission"
    endings: tuple[str, ...]  # of file names, in lower case; "": none at all; (): a directory
    is_former: Callable[[Path], bool]  # whether the file or directory there is one of ours

    @property
    def is_directory(self) -> bool:
        """Whether outputs of this kind are directories."""
        return not self.endings


def user_path(text: str) -> Path:
    """The path that a user typed; a `type` for argparse.

    `~` stands for the home directory, unless something has just that name.
    """
    with suppress(RuntimeError):  # no such user, or no home directory
        if not os.path.lexists(text):
            return Path(text).expanduser()
    return Path(text)


def beside(path: Path, suffix: str) -> Path:
    """The file beside an output that has its name and a suffix."""
    return path.parent / (path.name + suffix)


def check_output(path: Path, kind: Kind) -> None:
    """Refuse an output that cannot be made, or that would take the place of something else.

    There may be nothing yet, an empty file or directory, or a former output of the same kind.
    To be called before any work begins.

    Raises:
        UserError: the name ends wrongly, is too long or none; the directory around it is missing
            or cannot be written; or what is there is a link, a device, a directory where a file
            should go (or the other way round), or no former output of this kind.
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
            _refuse_to_replace(path, mode, kind)
            written = path if kind.is_directory else path.parent
        with tempfile.TemporaryFile(dir=written):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from None


def _refuse_places_of_ours(path: Path) -> None:
    """Refuse the names that a run's own files have, and everything below them and in indexes."""
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


def _refuse_to_replace(path: Path, mode: int, kind: Kind) -> None:
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
    """The names in a directory, without those of drafts."""
    names = {path.name for path in directory.iterdir()}
    return {name for name in names if not name.startswith(_DRAFT_PREFIX)}


def is_former(path: Path, kind: Kind) -> bool:
    """Whether a former output of this kind is there."""
    try:
        return kind.is_former(path)
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
    ):  # absent or unreadable: not known to be ours
        return False


def csv_with_header(columns: Sequence[str], *, marked: bool = False) -> Callable[[Path], bool]:
    """Whether a file (compressed if its name ends in .gz) begins with just this line.

    `marked` asks for the mark of `Draft.publish` too, where the file system can keep it: others
    write files with the same header.
    """
    header = (",".join(columns) + "\n").encode()

    def has_header(path: Path) -> bool:
        if marked and not _may_be_marked(path):
            return False
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read(_HEAD_BYTES).replace(b"\r\n", b"\n").startswith(header)

    return has_header


def _mark(file: IO[bytes]) -> None:
    """Note in the file's extended attributes, where there are any, that it was written here."""
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


class Draft:
    """A file of a name of its own beside the output, which takes its place when it is whole.

    Two processes that write the same output do not meet. A draft is locked while its process
    lives, so that the next one can tell and remove what a killed one left.
    """

    def __init__(self, path: Path, kind: Kind | None = None) -> None:
        """Open the draft as `file`. With a `kind`, `publish` checks once more what is there.

        Raises:
            OSError: it cannot be made.
        """
        self.path, self._kind = path, kind
        prefix = _DRAFT_PREFIX + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8] + "-"
        _remove_abandoned(path.parent, prefix)
        while True:
            # The same ending: some writers choose their format by it.
            self.draft = path.with_name(prefix + secrets.token_hex(4) + path.suffix[:16])
            self.file: IO[bytes] = self.draft.open("xb")
            _lock(self.file)
            if self.draft.exists():  # else taken for abandoned before it was locked
                break
            self.file.close()

    def close(self) -> None:
        """Write out what is buffered; `publish` and `discard` do, too."""
        self.file.close()

    def publish(self) -> None:
        """Give the draft its name.

        Raises:
            UserError: meanwhile something else was put there; the draft stays, and is named.
            OSError: it cannot be written or renamed.
        """
        if not self.file.closed:
            _mark(self.file)
            self.file.flush()
            os.fsync(self.file.fileno())
        if self._kind is not None and os.path.lexists(self.path):
            try:
                _refuse_to_replace(self.path, self.path.lstat().st_mode, self._kind)
            except UserError as error:
                kept = self.draft.with_name(self.draft.name.removeprefix("."))
                self.draft.rename(kept)
                self.file.close()
                raise UserError(f"{error}; what was to be written is {kept}") from None
        self.draft.replace(self.path)
        self.file.close()

    def discard(self) -> None:
        """Remove the draft, if it is still one."""
        with suppress(OSError, ValueError):
            self.file.close()
        self.draft.unlink(missing_ok=True)


def _lock(file: IO[bytes] | int) -> bool:
    """Whether nobody else holds the file; where the file system has no locks, nobody does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_abandoned(directory: Path, prefix: str) -> None:
    with suppress(OSError):
        for path in directory.iterdir():
            if path.name.startswith(prefix):
                with _opened(path) as descriptor:
                    if not _lock(descriptor):
                        continue
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def draft_directory(path: Path) -> Iterator[Path]:
    """A new directory in `path`; its files move to `path` when the body ends well.

    Raises:
        OSError: it cannot be made, or a file cannot be moved.
    """
    path.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path, _DRAFT_PREFIX + "files-")
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT_PREFIX + "files-", dir=path))
    try:
        with _opened(draft) as descriptor:
            _lock(descriptor)
            yield draft
            for file in sorted(draft.iterdir()):
                file.replace(path / file.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def whole(path: Path, kind: Kind | None = None) -> Iterator[IO[bytes]]:
    """Open a draft for writing, which becomes `path` when the body ends well.

    Raises:
        UserError: see `Draft.publish`.
        OSError: it cannot be written.
    """
    draft = Draft(path, kind)
    try:
        yield draft.file
        draft.publish()
    finally:
        draft.discard()


def write_text(path: Path, text: str, kind: Kind | None = None) -> None:
    """Write a file whole or not at all; names of files that are no UTF-8 keep their bytes."""
    with whole(path, kind) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def to_json(value: Any, indent: int | None = 1, *, allow_nan: bool = True) -> str:
    """JSON that can be read by people, and written as UTF-8 whatever names are in it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file that is no UTF-8
        return json.dumps(value, indent=indent, allow_nan=allow_nan)
    return text


def write_json(path: Path, value: Any, kind: Kind | None = None) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, to_json(value) + "\n", kind)
