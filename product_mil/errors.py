"""Errors of use: one line that says what is wrong and what to do next, never a traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something a user can put right; the message names the file or field and the next step."""


def refuse_too_many_open_files(error: OSError, path: Path) -> None:
    """Raise `UserError` where that is what `error` says: it is no fault of the file."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise UserError(
            f"too many open files at {path}: give fewer, larger ones (BSON files can be joined by "
            "cat), or raise the limit with ulimit -n"
        ) from None


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` as `error: ...` to standard error and leave with exit status 2.

    Ctrl-C leaves with one line and status 130.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command starts or goes on again", file=sys.stderr)
        sys.exit(130)
