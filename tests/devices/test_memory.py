"""Memory that is left: of the machine, and of the control groups around this process."""

import re
from pathlib import Path

import pytest

from product_mil.devices.memory import free_memory_bytes

GB = 1 << 30
V2 = ("memory.max", "memory.current", "")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
NO_LIMIT = 9223372036854771712  # of version 1; version 2 says "max"


def machine(root: Path, own_groups: str) -> Path:
    """A machine with 16 GB available; returns where its groups are mounted."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(
        f"MemTotal: {99 << 20} kB\nMemAvailable: {16 << 20} kB\nHugePages_Total: 0\n"
    )
    (root / "proc" / "self" / "cgroup").write_text(own_groups)
    mounts = root / "sys" / "fs" / "cgroup"
    mounts.mkdir(parents=True)
    return mounts


def group(directory: Path, version: tuple[str, str, str], limit: object, used: int) -> None:
    """A group that uses this much, of which 1 GB are pages of files."""
    directory.mkdir(parents=True, exist_ok=True)
    limit_name, used_name, prefix = version
    (directory / limit_name).write_text(f"{limit}\n")
    (directory / used_name).write_text(f"{used}\n")
    (directory / "memory.stat").write_text(
        f"anon {used - GB}\n{prefix}inactive_file {GB // 4}\n{prefix}active_file {3 * GB // 4}\n"
    )


def test_of_this_machine() -> None:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    total = int(re.findall(r"MemTotal: +(\d+)", text)[0]) << 10
    assert total / 100 < free_memory_bytes() < total


@pytest.mark.parametrize(("version", "unlimited"), [(V1, NO_LIMIT), (V2, "max")])
def test_the_tightest_of_all_limits_counts(
    tmp_path: Path, version: tuple[str, str, str], unlimited: object
) -> None:
    own = "4:cpu,memory:/a/b\n0::/\n" if version is V1 else "0::/a/b\n"
    mount = machine(tmp_path, own) / ("memory" if version is V1 else "")
    for inner in ("a/b", "a"):
        group(mount / inner, version, unlimited, 3 * GB)
    assert free_memory_bytes(tmp_path) == 16 * GB
    group(mount / "a", version, 10 * GB, 3 * GB)
    assert free_memory_bytes(tmp_path) == 8 * GB  # used: 2 GB besides pages of files
    group(mount / "a/b", version, 4 * GB, 3 * GB)
    assert free_memory_bytes(tmp_path) == 2 * GB
    group(mount / "a/c", version, 0, GB)  # not ours
    assert free_memory_bytes(tmp_path) == 2 * GB
    group(mount / "a/b", version, GB, 3 * GB)
    assert free_memory_bytes(tmp_path) == 0


@pytest.mark.parametrize("version", [V1, V2])
def test_a_container_that_sees_the_name_of_its_group_outside(
    tmp_path: Path, version: tuple[str, str, str]
) -> None:
    own = "7:memory:/docker/123\n" if version is V1 else "0::/docker/123\n"
    mount = machine(tmp_path, own) / ("memory" if version is V1 else "")
    group(mount, version, 5 * GB, 2 * GB)
    assert free_memory_bytes(tmp_path) == 4 * GB


def test_where_nothing_is_said_all_memory_counts(tmp_path: Path) -> None:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    total = int(re.findall(r"MemTotal: +(\d+)", text)[0]) << 10
    assert free_memory_bytes(tmp_path) == pytest.approx(total, rel=0.01)
