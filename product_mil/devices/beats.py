"""Notice another process of a run that is gone or stands still, and say which one.

JAX alone would let the others wait for minutes and then end them with a stack trace. Here each
process rewrites a small file in a directory that all see, once a second, and reads those of the
others. The file says what the process is doing, or why it ended.
"""

import ctypes
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax

from product_mil.devices.hosts import (
    Share,
    are_several,
    by_the_first,
    from_first,
    gathered,
    leave,
    own_share,
)
from product_mil.errors import HostLost, Interrupted, UserError

BEAT_S = 1.0
SILENT_S = 30.0  # after which a process that is silent counts as gone
_TOKEN = "token"
_SEEN_WITHIN_S = 60.0  # a file system on the network may show a new file late
_KEPT: list[Any] = []  # what C calls must not be collected
_ENDED, _FAILED = "ended", "failed: "
_HOST = socket.gethostname()


class Beats:
    """The files of all processes in one directory, of which this process writes its own."""

    def __init__(self, directory: Path, share: Share) -> None:
        self._directory, self._share = directory, share
        self._count, self._news = 0, "begins"
        self._others = {i: ("", time.monotonic()) for i in range(share.of) if i != share.number}
        self.beat()

    def beat(self) -> None:
        """Write this process's file anew."""
        self._count += 1
        # In place, since another host may see a new file under the same name late.
        with suppress(OSError):
            self._file(self._share.number).write_text(
                f"{self._count}\n{_HOST}\n{os.getpid()}\n{self._news}\n", encoding="utf-8"
            )

    def end(self, news: str) -> None:
        """Write that this process ended, and why if it failed."""
        self._news = news
        self.beat()

    def lost(self, silent_s: float = SILENT_S) -> str | None:
        """A line that names a process that failed, or is silent for so long; None if none is."""
        self._listen()
        now, silent = time.monotonic(), []
        for index, (found, changed_at) in self._others.items():
            _, host, pid, news = [*found.splitlines(), *[""] * 4][:4]
            name = f"process {index}" + (f" ({host}, process id {pid})" if host else "")
            if news.startswith(_FAILED):
                return f"{name} failed: {news.removeprefix(_FAILED)}"
            if news == _ENDED:
                continue
            if host == _HOST and not _is_running(pid):
                return f"{name} was killed"
            if now - changed_at > silent_s:
                silent.append(f"{name} was not heard of for {now - changed_at:.0f} s")
        return "; ".join(silent) or None

    def _listen(self) -> None:
        """Read the others' files, and note when each one changed."""
        for index, (before, _) in list(self._others.items()):
            with suppress(OSError, UnicodeDecodeError):
                found = self._file(index).read_text(encoding="utf-8")
                if found not in ("", before):
                    self._others[index] = found, time.monotonic()

    def _file(self, index: int) -> Path:
        return self._directory / str(index)


def _is_running(pid: str) -> bool:
    """Whether a process of this host runs; where the system does not say, it is taken to."""
    try:
        state = Path("/proc", pid, "stat").read_bytes().rpartition(b") ")[2][:1]
    except OSError:
        return not Path("/proc/self/stat").exists()
    return state not in (b"Z", b"X")  # a zombie, which its parent did not ask for yet


def see_the_same(directory: Path) -> None:
    """Make the directory in process 0, and check that all processes see the same one.

    Raises:
        UserError: one does not.
    """
    token = uuid4().hex

    def write() -> None:
        try:
            directory.mkdir(exist_ok=True)
            for path in directory.iterdir():  # of an earlier start
                path.unlink()
            (directory / _TOKEN).write_text(token, encoding="ascii")
        except OSError as error:
            raise UserError(f"cannot write to {directory}: {error.strerror or error}") from None

    by_the_first(write)
    wanted, of_first, found = from_first(token), from_first(str(directory)), None
    # Under another name it is most likely another one.
    patience_s = _SEEN_WITHIN_S if str(directory) == of_first else 5
    until = time.monotonic() + patience_s
    while found != wanted and time.monotonic() < until:
        with suppress(OSError, UnicodeDecodeError):
            found = (directory / _TOKEN).read_text(encoding="ascii")
        if found != wanted:
            time.sleep(0.2)
    own = f"process {own_share().number} on {_HOST} does not see in {directory}"
    blind = next(filter(None, gathered("" if found == wanted else own)), None)
    if blind is not None:
        raise UserError(
            f"{blind} what process 0 wrote in {of_first}: --workdir has to be the same directory "
            "for all, on a file system that their hosts share"
        )


@contextmanager
def watched(directory: Path) -> Iterator[None]:
    """Watch the other processes while the body runs; with one process there is nothing to watch.

    If another one is gone or silent, this process says so in one line and ends at once, because it
    may wait for the other where nothing can be interrupted. If the body fails, the others learn of
    it.

    Raises:
        HostLost: the body failed because another process is gone.
        UserError: the directory is not the same one for all processes.
    """
    if not are_several():
        yield
        return
    see_the_same(directory)
    beats, done = Beats(directory, own_share()), threading.Event()

    def watch() -> None:
        while not done.wait(BEAT_S):
            beats.beat()
            line = beats.lost()
            if line is not None and not done.wait(2 * BEAT_S):  # it may be ending by itself
                leave(_said(line))

    _speak_before_abort(beats)
    threading.Thread(target=watch, name="beats", daemon=True).start()
    news = _ENDED
    try:
        yield
    except Interrupted:  # all processes stop at the same step
        raise
    except BaseException as error:
        done.set()
        line = _who_is_lost(beats) if isinstance(error, jax.errors.JaxRuntimeError) else None
        if line is not None:
            raise HostLost(_said(line)) from error
        news = _FAILED + _one_line(error)
        raise
    finally:
        done.set()
        beats.end(news)
    by_the_first(lambda: shutil.rmtree(directory, ignore_errors=True))


def _speak_before_abort(beats: Beats) -> None:
    """Let this process end in our own words where JAX aborts it because process 0 is gone.

    JAX does so in a thread of its own, and asks nobody before. This stays until the process ends.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborted(_: int) -> None:
        line = _who_is_lost(beats)
        if line is not None:
            leave(_said(line))
        os._exit(128 + signal.SIGABRT)

    _KEPT.append(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT, aborted)


def _who_is_lost(beats: Beats) -> str | None:
    """Wait a moment for who it was that a transfer between processes failed for."""
    until = time.monotonic() + 4 * BEAT_S
    while time.monotonic() < until:
        line = beats.lost(silent_s=2 * BEAT_S)
        if line is not None:
            return line
        time.sleep(BEAT_S / 5)
    return None


def _said(line: str) -> str:
    return f"{line}; this process ends too, and the same command goes on from the last checkpoint"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
