"""Files and directories that appear whole or not at all.

An output is first written as a draft: a file with a temporary name in the same directory, which is
renamed when it is complete. A draft stays locked while its process lives, so that a later process
can recognise and remove the draft of a killed one.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from product_mil.errors import UserError
from product_mil.files.outputs import DRAFT_PREFIX, Kind, mark, refuse_to_replace

_DIRECTORY_PREFIX = DRAFT_PREFIX + "files-"


class Draft:
    """An unfinished output under a temporary name, which is renamed when it is complete.

    Every draft has another name, so two processes can write the same output at the same time.
    """

    def __init__(self, path: Path, kind: Kind | None = None) -> None:
        """Open the draft as `file`. With a `kind`, `publish` checks again what it would replace.

        Raises:
            OSError: the draft cannot be made.
        """
        self.path, self._kind = path, kind
        prefix = DRAFT_PREFIX + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8] + "-"
        _remove_abandoned(path.parent, prefix)
        while True:
            # The draft keeps the ending, since some writers choose their format by it.
            self.draft = path.with_name(prefix + secrets.token_hex(4) + path.suffix[:16])
            self.file: IO[bytes] = self.draft.open("xb")
            if _lock(self.file) is not False and self.draft.exists():
                break  # otherwise another process removed it as abandoned before it was locked
            self.file.close()

    def publish(self) -> None:
        """Rename the draft to the output's name.

        Raises:
            UserError: something else has appeared there; the draft stays, and the message names it.
            OSError: the draft cannot be written or renamed.
        """
        if not self.file.closed:
            mark(self.file)
            self.file.flush()
            os.fsync(self.file.fileno())
        if self._kind is not None and os.path.lexists(self.path):
            try:
                refuse_to_replace(self.path, self.path.lstat().st_mode, self._kind)
            except UserError as error:
                kept = self.draft.with_name(self.draft.name.removeprefix("."))
                self.draft.rename(kept)
                self.file.close()
                raise UserError(f"{error}; what was to be written is {kept}") from None
        self.draft.replace(self.path)
        self.file.close()

    def discard(self) -> None:
        """Remove the draft unless it was published."""
        with suppress(OSError, ValueError):
            self.file.close()
        self.draft.unlink(missing_ok=True)


def _lock(file: IO[bytes] | int) -> bool | None:
    """Try to lock a file, and return whether it is ours; None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
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
def _locked_directory(parent: Path) -> Iterator[Path]:
    """A new locked directory in `parent`, which is removed at the end unless it was renamed."""
    _remove_abandoned(parent, _DIRECTORY_PREFIX)
    draft, descriptor = _make_locked(parent)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)


def _make_locked(parent: Path) -> tuple[Path, int]:
    """A new directory and the descriptor that holds its lock."""
    while True:
        draft = parent / (_DIRECTORY_PREFIX + secrets.token_hex(8))
        draft.mkdir()
        with suppress(FileNotFoundError):  # another process removed it before it was locked
            descriptor = os.open(draft, os.O_RDONLY)
            if _lock(descriptor) is not False and draft.exists():
                return draft, descriptor
            os.close(descriptor)


@contextmanager
def draft_directory(path: Path) -> Iterator[Path]:
    """A new directory in `path`, whose files move to `path` when the body ends without an error.

    Raises:
        OSError: the directory cannot be made, or a file cannot be moved.
    """
    path.mkdir(parents=True, exist_ok=True)
    with _locked_directory(path) as draft:
        yield draft
        for file in sorted(draft.iterdir()):
            file.replace(path / file.name)


@contextmanager
def whole_directory(path: Path, is_whole: Callable[[Path], bool] = Path.is_dir) -> Iterator[Path]:
    """A new directory, which becomes `path` when the body ends without an error.

    If another process has made `path` meanwhile, that directory stays if `is_whole` accepts it, and
    is replaced otherwise. Missing parent directories are made, and removed again if the body fails.

    Raises:
        OSError: the directory cannot be made or renamed.
    """
    missing = [place for place in path.parents if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked_directory(path.parent) as draft:
            yield draft
            try:
                draft.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
                if not is_whole(path):
                    shutil.rmtree(path)
                    draft.rename(path)
    finally:
        for place in missing:
            with suppress(OSError):  # something lies in it
                place.rmdir()


@contextmanager
def whole(path: Path, kind: Kind | None = None) -> Iterator[IO[bytes]]:
    """Open a draft for writing, which becomes `path` when the body ends without an error.

    Raises:
        UserError: see `Draft.publish`.
        OSError: the file cannot be written.
    """
    draft = Draft(path, kind)
    try:
        yield draft.file
        draft.publish()
    finally:
        draft.discard()


def write_text(path: Path, text: str, kind: Kind | None = None) -> None:
    """Write a text file whole or not at all. File names that are not UTF-8 keep their bytes."""
    with whole(path, kind) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def to_json(value: Any, indent: int | None = 1, *, allow_nan: bool = True) -> str:
    """JSON that people can read, and that can be written as UTF-8 whatever file names it has."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return json.dumps(value, indent=indent, allow_nan=allow_nan)
    return text


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, to_json(value) + "\n")
