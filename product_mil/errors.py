"""Exceptions that end the work early: errors that a user can correct, and requests to stop."""

import errno
import signal
from pathlib import Path


class UserError(Exception):
    """An error that the user can correct. Its message names the file or field and what to do."""


class OutputError(UserError):
    """An output cannot be written, for instance because the disk is full."""


class Interrupted(Exception):
    """A run was asked to stop, and has saved its state. Its message is a line for people."""

    def __init__(self, where: str, number: int = signal.SIGTERM) -> None:
        """`where` says at which point the run stopped, and `number` which signal asked for it.

        A run that stops at its deadline has SIGTERM.
        """
        super().__init__(where, number)
        self.where, self.signal = where, number

    def __str__(self) -> str:
        return f"{self.where}; the same command goes on from there"


class HostLost(Exception):
    """Another process of the same run is gone. Its message names it and says what to do."""

    STATUS = 75  # exit status: to be tried again (EX_TEMPFAIL)


def refuse_too_many_open_files(error: OSError, path: Path) -> None:
    """Raise `UserError` if `error` says that too many files are open; the file is not at fault."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise UserError(
            f"too many open files at {path}: give fewer, larger ones (BSON files can be joined by "
            "cat), or raise the limit with ulimit -n"
        ) from None
