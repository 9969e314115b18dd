"""What ends the work before its result: errors of use, and requests to stop."""

import errno
import signal
from pathlib import Path


class UserError(Exception):
    """Something a user can put right; the message names the file or field and the next step."""


class Interrupted(Exception):
    """A run was asked to stop and has saved its state; the message is a line for people."""

    def __init__(self, where: str, number: int = signal.SIGTERM) -> None:
        """`where` says where it stopped, `number` which signal asked; a deadline is SIGTERM."""
        super().__init__(where, number)
        self.where, self.signal = where, number

    def __str__(self) -> str:
        return f"{self.where}; the same command goes on from there"


def refuse_too_many_open_files(error: OSError, path: Path) -> None:
    """Raise `UserError` where that is what `error` says: it is no fault of the file."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise UserError(
            f"too many open files at {path}: give fewer, larger ones (BSON files can be joined by "
            "cat), or raise the limit with ulimit -n"
        ) from None
