"""Find the files that a user's specification of the data names."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from glob import escape, glob, has_magic
from pathlib import Path

from product_mil.errors import UserError
from product_mil.files.foreign import DUMP, refuse_foreign

_MAX_COMMAS = 8  # in the name of one file among several


def named_files(spec: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files named by a path, by a glob (in sorted order), or by several with commas between.

    A file whose name is exactly as written comes first, even if the name has commas, brackets or a
    `~`.

    Raises:
        UserError: a file is missing, is a directory, or is named twice.
    """
    paths: list[Path] = []
    for item in [spec] if isinstance(spec, str | Path) else spec:
        try:
            for part in _parts(str(item)):
                paths += _matches(part)
        except (OSError, RuntimeError) as error:  # no permission, no such user, too long
            raise UserError(f"cannot look for {item}: {error}; check the path") from None
    if not paths:
        raise UserError("no BSON file was named")
    repeated = [path for path, times in Counter(map(Path.resolve, paths)).items() if times > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is named more than once; name each file once")
    return paths


def dump_files(spec: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of `named_files`, which are checked to begin like BSON.

    Raises:
        UserError: as for `named_files`; or a file is of another kind.
    """
    paths = named_files(spec)
    for path in paths:
        refuse_foreign(path, DUMP)
    return paths


def _parts(text: str) -> Iterator[str]:
    """Split a text at its commas, except those that belong to the name of an existing file."""
    pieces = [text] if "," not in text or _is_there(text) else text.split(",")
    while pieces:
        counts = range(1, min(len(pieces), _MAX_COMMAS + 1) + 1)
        # Take the shortest name that exists; otherwise the piece is a pattern, or missing.
        count = next((n for n in counts if _is_there(",".join(pieces[:n]).strip())), 1)
        part = ",".join(pieces[:count])
        if part.strip():
            yield part if _is_there(part) else part.strip()
        pieces = pieces[count:]


def _is_there(text: str) -> bool:
    """Whether the file of this name exists, or the directory that a pattern looks in."""
    try:
        path = _path(text)
        looks_in = has_magic(path.name) and "," not in path.name and path.parent.is_dir()
        return bool(text) and (path.exists() or looks_in)
    except (OSError, RuntimeError):
        return False


def _path(text: str) -> Path:
    path = Path(text)
    return path if os.path.lexists(path) else path.expanduser()


def _matches(text: str) -> list[Path]:
    """The file of this name, or the files that fit a pattern."""
    path = _path(text)
    if path.is_dir():
        if any(path.glob("*.bson")):
            raise UserError(f"{path} is a directory: name its files, as in '{path}/*.bson'")
        raise UserError(
            f"{path} is a directory without .bson files; docs/guide/own-data.md shows how to make "
            "one of a folder of images, docs/guide/python.md how to classify images without one"
        )
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {path.readlink()}, which is not there")
    if path.exists():
        # `/dev/stdin` is another file in every process, but it may be a link to a named one.
        through = path.is_file() and path.is_relative_to("/dev")
        return [path.resolve() if through else path]
    parent = next(parent for parent in path.parents if parent.exists())  # it is no pattern
    pattern = Path(escape(str(parent)), *path.parts[len(parent.parts) :])
    found = glob(str(pattern))  # noqa: PTH207, Path.glob refuses absolute patterns
    matches = [match for match in sorted(map(Path, found)) if not match.is_dir()]
    if not matches:
        raise UserError(f"{path}: no such file; check the path or the pattern")
    return matches
