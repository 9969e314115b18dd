"""Work that one process does at a time, while the others wait for its result."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_at_a_time(path: Path, work: str) -> Iterator[None]:
    """Wait until no other process is in the body with the same lock file `path`.

    The file stays. A process that is killed gives its lock up. Where the file system has no locks,
    nobody waits. `work` says for people what is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.getLogger(__name__).info("waiting for another process: %s", work)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
