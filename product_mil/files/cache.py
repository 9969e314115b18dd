"""The cache: a directory for everything that can be computed or downloaded again.

Files are looked for under `cache_root()`, and written to `writable_cache(name)`. Where the cache
cannot be written, that is a temporary directory, and the next process repeats the work.
"""

import atexit
import functools
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

from product_mil.errors import UserError

_PROBE_BYTES = 1 << 20  # a disk without room for this counts as full


def cache_root() -> Path:
    """$PRODUCT_MIL_CACHE, or `product_mil` in the user's cache directory; it need not exist.

    A user without a home directory has the temporary cache.
    """
    chosen = os.environ.get("PRODUCT_MIL_CACHE")
    if chosen:
        return Path(chosen)
    # Neither HOME nor an entry in the user database: platformdirs raises, or leaves a ~.
    with suppress(RuntimeError):
        root = Path(platformdirs.user_cache_dir("product_mil"))
        if root.parts[0] != "~":
            return root
    _warn_once(Path("~"), "there is no home directory to keep a cache in")
    return temporary_cache()


def can_be_written(name: str = "") -> bool:
    """Whether files can be written to the directory `name` of the cache, which is made if missing.

    If not (a read-only file system, a full disk, another user's directory), a warning says so once.
    """
    return _can_be_written(cache_root(), name)


@functools.cache
def _can_be_written(root: Path, name: str) -> bool:
    reason = why_not_writable(root / name)
    if reason is not None:
        _warn_once(root, f"the cache {root / name} cannot be written ({reason})")
    return reason is None


def writable_cache(name: str = "") -> Path:
    """The directory `name` of the cache or, if that cannot be written, of `temporary_cache()`.

    Raises:
        UserError: neither can be written.
    """
    if can_be_written(name):
        return cache_root() / name
    directory = temporary_cache() / name
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise _no_place(error) from error
    return directory


@functools.cache
def temporary_cache() -> Path:
    """A new directory that is removed when the process ends.

    Raises:
        UserError: the system has no room for temporary files.
    """
    try:
        directory = Path(tempfile.mkdtemp(prefix="product_mil-"))
    except OSError as error:
        raise _no_place(error) from error
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def why_not_writable(directory: Path) -> str | None:
    """The reason why a directory cannot be written, or None. The directory is made if missing."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
    except FileExistsError:
        return "it is a file"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _no_place(error: OSError) -> UserError:
    return UserError(
        f"no temporary file can be written ({error.strerror}); set PRODUCT_MIL_CACHE or TMPDIR to "
        "a directory that can be"
    )


_warned: set[Path] = set()


def _warn_once(root: Path, reason: str) -> None:
    """Warn that a temporary cache takes the place of `root`, at the first time."""
    if root not in _warned:
        _warned.add(root)
        logging.getLogger(__name__).warning(
            "%s: what is made or fetched now will be made or fetched again next time; set "
            "PRODUCT_MIL_CACHE to a directory that can be written",
            reason,
        )
