"""What the program asks of the C library, and what the environment asks of it."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import product_mil
from product_mil.devices.runtime import MIN_OPEN_FILES, allow_open_files, refuse_xla_flags
from product_mil.errors import UserError

ROOT = Path(product_mil.__file__).resolve().parents[1]

FAULTS = """
import ctypes, resource, sys
if sys.argv[1] == "kept":
    from product_mil.devices.runtime import keep_freed_memory
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
@pytest.mark.slow
def test_memory_is_kept() -> None:
    """A large block that was freed is there again without a page fault."""

    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("kept") < 100
    assert faults("as it comes") > 30  # 2 MB each at the least


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize(
    "platforms",
    [
        "cuda",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("nonsense", "gpu", "CPU", " cpu", "cpu,tpu")
        ),
    ],
)
def test_platforms_that_are_not_there(platforms: str, tmp_path: Path) -> None:
    if platforms in ("cuda", "gpu") and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    tool = ("tools/evaluate.py", "--workdir", str(tmp_path), "--data", "absent.bson")
    done = command(*tool, JAX_PLATFORMS=platforms)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: JAX_PLATFORMS={platforms}: ")
    assert "unset JAX_PLATFORMS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_every_command_says_so(tmp_path: Path) -> None:
    """Those that use JAX: each asks `configure_jax` first."""
    (tmp_path / "a.bson").write_bytes(b"")
    run, data = str(tmp_path), str(tmp_path / "a.bson")
    for tool in (
        ("-m", "product_mil.main", "--config=configs/joint.py:smoke", f"--workdir={run}/run"),
        ("tools/export_predictions.py", "--workdir", run, "--data", data, "--output", "a.csv"),
        ("tools/seed_table.py", "--output", f"{run}/table", "--budget_minutes", "1"),
    ):
        done = command(*tool, JAX_PLATFORMS="nonsense")
        assert done.returncode == 2, done.stderr
        assert "error: JAX_PLATFORMS=nonsense: " in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.bson"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("JAX_ENABLE_X64", "maybe"), ("JAX_NUM_CPU_DEVICES", "many"), ("JAX_LOG_COMPILES", "2")],
)
def test_variables_that_jax_does_not_import_with(variable: str, value: str, tmp_path: Path) -> None:
    tool = ("tools/evaluate.py", "--workdir", str(tmp_path), "--data", "absent.bson")
    done = command(*tool, **{variable: value})
    assert done.returncode == 2
    assert f"error: {variable}={value}: JAX does not take it" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--no_such_flag=1", "Unknown flag"),
        ("--xla_force_host_platform_device_count=many", "Couldn't interpret value many"),
        ("no_dashes", "Could not open file"),
    ],
)
def test_flags_that_xla_would_abort_at(flags: str, reason: str) -> None:
    with pytest.raises(UserError, match="correct or unset XLA_FLAGS") as caught:
        refuse_xla_flags(flags)
    assert f"XLA_FLAGS={flags}" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_that_xla_takes() -> None:
    for flags in ("", " ", "--xla_force_host_platform_device_count=2"):
        refuse_xla_flags(flags)


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised as far as it may be; too low, it is reported."""
    limits, asked = [40, 5000], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: asked.append(wanted))
    allow_open_files()
    assert asked == [(5000, 5000)]
    limits[1] = MIN_OPEN_FILES - 1
    with pytest.raises(UserError, match="ulimit -n 1024"):
        allow_open_files()
    limits[:] = resource.RLIM_INFINITY, resource.RLIM_INFINITY
    asked.clear()
    allow_open_files()
    assert asked == []
