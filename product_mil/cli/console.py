"""How a command meets the terminal: streams that are closed, full or gone, and how it ends."""

import errno
import functools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from product_mil.errors import HostLost, Interrupted, UserError

MISUSED = 2  # the exit status after a `UserError`
SIGNALLED = 128  # and the number of the signal that ended it


@contextmanager
def command(*, prints_result: bool = False) -> Iterator[None]:
    """Run a command; as a decorator, `@command()`, around its `main`.

    What the library logs is shown: warnings on standard error, the rest on standard output, or
    also on standard error where `prints_result` says that the result is on standard output. A
    `UserError` is one line on standard error, and status 2. A run that was asked to stop says where
    it stopped; any other Ctrl-C, SIGTERM or SIGHUP removes unfinished outputs and is one line. The
    status is 128 + the signal's number, as a shell shows it. Where another process of the same run
    is gone, the status is 75.

    Standard output and error may be closed, full or gone at any moment: what is written there is
    lost from then on, and the work goes on. Only a command that `prints_result` fails then: quietly
    with status 141 where the reader went away, else with one line.
    """
    with _ended_by_signals(), _reported(prints_result=prints_result):
        yield


@contextmanager
def _reported(*, prints_result: bool = False) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    _open_closed_descriptors()
    output = sys.stdout = _lasting(sys.stdout)
    errors = sys.stderr = _lasting(sys.stderr)
    try:
        with shown_messages(logging.DEBUG if prints_result else logging.WARNING):
            yield
        output.flush()
        if prints_result:
            _refuse_lost_result(output.error)
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(SIGNALLED + interrupted.signal)
    except UserError as error:
        print(f"error: {error}", file=errors)
        sys.exit(MISUSED)
    except HostLost as lost:
        print(f"error: {lost}", file=errors)
        sys.exit(HostLost.STATUS)
    except ValueError as error:
        variable = _jax_variable_in(error)
        if variable is None:
            raise
        print(
            f"error: {variable}={os.environ[variable]}: JAX does not take it; correct or unset "
            f"{variable}",
            file=errors,
        )
        sys.exit(MISUSED)
    except KeyboardInterrupt:
        print("interrupted; the same command starts or goes on again", file=errors)
        sys.exit(SIGNALLED + signal.SIGINT)
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def leaves_at_once(main: Callable[..., None]) -> Callable[..., None]:
    """A command that ends its process where it ends, if that is one of several that train together.

    Python would first do what JAX has registered for the end, which waits for the others for
    minutes.
    """

    @functools.wraps(main)
    def leaving(*arguments: Any) -> None:
        try:
            main(*arguments)
        except BaseException as error:
            jax = sys.modules.get("jax")
            if jax is None or not jax.distributed.is_initialized():
                raise
            if not isinstance(error, SystemExit):
                traceback.print_exc()
            code = getattr(error, "code", 1)
            os._exit(code if isinstance(code, int) else 1)

    return leaving


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGINT, SIGTERM and SIGHUP if nobody else reacts to them.

    When the body has cleaned up, the signal ends the process as it would have done. Python's own
    end would wait for threads that still compute, or crash there. A second signal ends at once.
    """
    mine: dict[int, Any] = {}
    ended: list[int] = []

    def end(number: int, _: object) -> None:
        for one in mine:  # a closed terminal may send SIGHUP more than once
            signal.signal(one, signal.SIG_IGN if one == signal.SIGHUP else signal.SIG_DFL)
        ended.append(number)
        raise KeyboardInterrupt

    with suppress(ValueError):  # not the main thread, where no signals arrive
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if before in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, end)
                mine[number] = before
    try:
        yield
    finally:
        for number, before in mine.items():
            signal.signal(number, signal.SIG_DFL if ended else before)
        for number in ended:
            signal.raise_signal(number)


class _Shown(logging.Handler):
    """Shows messages as they are: the severe ones on standard error, others on standard output."""

    def __init__(self, errors_from: int) -> None:
        super().__init__()
        self._errors_from = errors_from

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= self._errors_from else sys.stdout
        print(record.getMessage(), file=stream, flush=True)


@contextmanager
def shown_messages(
    errors_from: int, library: str = "product_mil", level: int = logging.INFO
) -> Iterator[None]:
    """Show what a library logs from a level on, once, whatever handlers there were before.

    Messages of the level `errors_from` and above go to standard error, others to standard output.
    """
    logger = logging.getLogger(library)
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = [_Shown(errors_from)], False
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.handlers[:], level_before, logger.propagate = before
        logger.setLevel(level_before)


def _jax_variable_in(error: ValueError) -> str | None:
    """The environment variable that an error is about which JAX raises when it is imported."""
    found = re.search(r"\bjax_\w+", str(error), re.IGNORECASE)
    name = found.group().upper() if found else ""
    return name if name in os.environ else None


def _refuse_lost_result(error: OSError | None) -> None:
    if error is not None:
        if error.errno == errno.EPIPE:
            sys.exit(SIGNALLED + signal.SIGPIPE)
        raise UserError(f"cannot write to standard output: {error.strerror}")


class LastingStream:
    """A text stream whose failures end nothing: the first one is kept, and what follows is lost."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or lose, the text; names of files that are no UTF-8 are written escaped."""
        if self.error is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                escaped = text.encode(error.encoding, "backslashreplace")
                self._stream.write(escaped.decode(error.encoding))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.error = error
        # What is still buffered would fail again when Python ends.
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lasting(stream: Any) -> LastingStream:  # whatever sys.stdout is by now, or None
    if isinstance(stream, LastingStream):
        return stream
    return LastingStream(stream or open(os.devnull, "w"))  # noqa: PTH123


def _open_closed_descriptors() -> None:
    """Keep the numbers of closed streams from files, into which libraries would write messages."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
