"""Errors of use: one line that says what is wrong and what to do next, never a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something a user can put right; the message names the file or field and the next step."""


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
