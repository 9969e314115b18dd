"""Errors of use: one line that says what is wrong and what to do next, never a traceback."""

import errno
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
