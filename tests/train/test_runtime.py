"""What the program asks of the C library."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import ctypes, resource, sys
if sys.argv[1] == "kept":
    from product_mil.train.runtime import keep_freed_memory
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
use()
print(use())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or Path("/dev/nvidiactl").exists(),
    reason="memory is kept with glibc and without an NVIDIA device",
)
def test_memory_is_kept() -> None:
    """A large block that was freed is there again without a page fault."""

    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("kept") < 100
    assert faults("as it comes") > 30  # 2 MB each at the least
