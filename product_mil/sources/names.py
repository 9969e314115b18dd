"""Find what a user's specification of the data names: files, folders, collections of MongoDB."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from glob import escape, glob, has_magic
from pathlib import Path
from typing import NamedTuple

from product_mil.errors import UserError

_MAX_COMMAS = 8  # in the name of one file among several
_ADDRESS = re.compile(r"mongodb(?:\+srv)?://")
_COLUMN = re.compile(r"\s*(?:id|category|images)=")  # such as id=sku: it goes on after a comma


class Named(NamedTuple):
    """A file, a folder or a collection that a user named."""

    path: Path  # of a collection: its address
    after: str = ""  # what follows a `#`: a collection, names of columns, or a file of labels
    inside: Path = Path()  # the directory that a pattern looks in; for a name, that of the file

    @property
    def shown(self) -> Path:
        """The name for messages."""
        return Path(f"{self.path}#{self.after}") if self.after else self.path


def address_of(spec: str | Path | Sequence[str | Path]) -> str | None:
    """The address of a MongoDB collection, if a specification is one.

    Raises:
        UserError: one is named among other data.
    """
    items = [spec] if isinstance(spec, str | Path) else list(spec)
    addresses = [item for item in items if isinstance(item, str) and _ADDRESS.match(item)]
    if addresses and len(items) > 1:
        raise UserError("name a MongoDB collection alone, or make a BSON file of it first")
    return addresses[0] if addresses else None


def named(spec: str | Path | Sequence[str | Path]) -> list[Named]:
    """What a path, a glob (in sorted order), or several with commas between name.

    A file whose name is exactly as written comes first, even if the name has commas, brackets, a
    `#` or a `~`.

    Raises:
        UserError: a file is missing, or is named twice.
    """
    found: list[Named] = []
    for item in [spec] if isinstance(spec, str | Path) else spec:
        try:
            for part in _parts(str(item)):
                name, after = _split(part)
                inside = _looks_in(_path(name))
                found += [Named(path, after, inside) for path in _matches(name)]
        except (OSError, RuntimeError) as error:  # no permission, no such user, too long
            raise UserError(f"cannot look for {item}: {error}; check the path") from None
    if not found:
        raise UserError("no data were named")
    places = Counter((Path.resolve(one.path), one.after) for one in found)
    repeated = [path for (path, _), times in places.items() if times > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is named more than once; name each file once")
    return found


def named_files(spec: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of `named` alone, without folders.

    Raises:
        UserError: as for `named`; or a folder is named.
    """
    paths = [one.path for one in named(spec)]
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a directory: name its files")
    return paths


def _parts(text: str) -> Iterator[str]:
    """Split a text at its commas, except those that belong to one file or to names of columns."""
    pieces = [text] if "," not in text or _is_there(text) else text.split(",")
    while pieces:
        counts = range(1, min(len(pieces), _MAX_COMMAS + 1) + 1)
        # Take the shortest name that exists; otherwise the piece is a pattern, or missing.
        count = next((n for n in counts if _is_there(",".join(pieces[:n]).strip())), 1)
        part = ",".join(pieces[:count])
        if "#" in part and not _is_there(part.strip()):
            while count < len(pieces) and _COLUMN.match(pieces[count]):
                count += 1
            part = ",".join(pieces[:count])
        if part.strip():
            yield part if _is_there(part) else part.strip()
        pieces = pieces[count:]


def _split(text: str) -> tuple[str, str]:
    """A name, and what follows its `#` unless that belongs to the name of a file."""
    pieces = text.split("#")
    whole = ["#".join(pieces[:count]) for count in range(len(pieces), 0, -1)]
    name = next(filter(_is_there, whole), pieces[0])
    return name, text[len(name) + 1 :].strip()


def _is_there(text: str) -> bool:
    """Whether the file of this name exists, or the directory that a pattern looks in."""
    try:
        path = _path(text)
        looks_in = has_magic(path.name) and not {",", "#"} & set(path.name)
        looks_in = looks_in and path.parent.is_dir()
        return bool(text) and (path.exists() or looks_in)
    except (OSError, RuntimeError):
        return False


def _path(text: str) -> Path:
    path = Path(text)
    return path if os.path.lexists(path) else path.expanduser()


def _looks_in(path: Path) -> Path:
    """The directory of a file, or the last one before the first wildcard of a pattern."""
    return next((parent for parent in path.parents if parent.exists()), path)


def _matches(text: str) -> list[Path]:
    """The file or folder of this name; or the files that fit a pattern, else the folders."""
    path = _path(text)
    if path.is_dir():
        if dump := next(path.glob("*.bson"), None):
            raise UserError(
                f"{path} holds {dump.name}: name its dumps, as in '{path}/*.bson', or move them "
                "to another place to read its folders of images"
            )
        return [path]
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {path.readlink()}, which is not there")
    if path.exists():
        # `/dev/stdin` is another file in every process, but it may be a link to a named one.
        through = path.is_file() and path.is_relative_to("/dev")
        return [path.resolve() if through else path]
    parent = _looks_in(path)  # it is no pattern
    pattern = Path(escape(str(parent)), *path.parts[len(parent.parts) :])
    found = glob(str(pattern))  # noqa: PTH207, Path.glob refuses absolute patterns
    matches = sorted(map(Path, found))
    matches = [match for match in matches if not match.is_dir()] or matches
    if not matches:
        raise UserError(f"{path}: no such file; check the path or the pattern")
    return matches
