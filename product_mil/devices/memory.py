"""Memory that this process may still take: of the machine, and of the container that it is in."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class _Names(NamedTuple):
    """The names of the files of a control group."""

    limit: str
    used: str
    page_caches: tuple[str, str]  # in memory.stat: memory that is given back on demand


_VERSION_1 = _Names(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
_VERSION_2 = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that is available without swapping; if the system does not say, all its memory.

    It is at most what the limits of this process' control group (cgroup) and of those around it
    leave, as containers and schedulers set them. `root` holds `proc` and `sys`.
    """
    return max(0, min([_of_the_machine(root), *_left_by_groups(root)]))


def _of_the_machine(root: Path) -> int:
    with suppress(OSError, LookupError, ValueError):
        return _numbers(root / "proc" / "meminfo")["MemAvailable:"] << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each limit of memory leaves; nothing for groups without one."""
    mounts = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, controllers, group = line.split(":", 2)
        if number == "0":
            mount, names = mounts, _VERSION_2
        elif "memory" in controllers.split(","):
            mount, names = mounts / "memory", _VERSION_1
        else:
            continue
        # A container may see the name outside of it, and its own group at the mount: the last one.
        place = PurePosixPath(group.lstrip("/"))
        for directory in (place, *place.parents):
            with suppress(OSError, LookupError, ValueError):
                yield _left_by(mount / directory, names)


def _left_by(directory: Path, names: _Names) -> int:
    """What the limit of a group leaves.

    Raises:
        OSError: there is no such group.
        ValueError: it has no limit.
    """
    limit, used = (int((directory / name).read_text()) for name in names[:2])
    statistics = _numbers(directory / "memory.stat")
    return limit - used + sum(statistics[name] for name in names.page_caches)


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the line's first word."""
    with path.open(encoding="ascii") as file:
        return {words[0]: int(words[1]) for words in map(str.split, file) if len(words) > 1}
