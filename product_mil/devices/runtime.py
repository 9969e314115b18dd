"""How this program uses JAX: set in one place, and what it can expect of the devices."""

import ctypes
import functools
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from product_mil.errors import UserError
from product_mil.files.cache import cache_root, can_be_written


def embedding_batch_images(at_most: int | None = None) -> int:
    """Images in one forward pass that only embeds; `at_most` says that there are not more.

    On a CPU groups of 4 a device stay in cache and run 1.4 times as fast as groups of 16 or more
    (MobileNetV2 at 180 px); the sizes for GPUs are not measured yet. There are few, because each is
    compiled.
    """
    sizes = [4] if jax.default_backend() == "cpu" else [16, 256]
    sizes = [size * jax.device_count() for size in sizes]
    return next((size for size in sizes if at_most is not None and at_most <= size), sizes[-1])


# glibc's `mallopt`: one arena, no memory maps of their own for large blocks, nothing handed back.
_KEEP_FREED_MEMORY = ((-8, 1), (-4, 0), (-1, -1))


def configure_jax() -> None:
    """Start JAX, with compiled programs kept between runs.

    Raises:
        UserError: JAX cannot be started as the environment asks, or too few files may be open.
    """
    keep_freed_memory()
    allow_open_files()
    if can_be_written("xla"):
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        # Of a disk that fills up: the program is compiled again next time.
        warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    refuse_xla_flags(os.environ.get("XLA_FLAGS", ""))
    start_devices()


# Training on 2 cores opens about 60 at once, and one for each further core.
MIN_OPEN_FILES = 128
_OPEN_FILES = 65_536  # a part of the embedding cache is open while it is mapped


def allow_open_files() -> None:
    """Raise this process's limit of open files as far as it may be raised and helps.

    Raises:
        UserError: it stays too low for any work.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a limit beside this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        raise UserError(
            f"only {soft} files may be open at once, and {MIN_OPEN_FILES} are needed; raise the "
            "limit, for instance with ulimit -n 1024"
        )


def start_devices() -> None:
    """Let JAX find its devices.

    Raises:
        UserError: there are none of the kind that JAX_PLATFORMS asks for.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        asked = jax.config.jax_platforms  # type: ignore[attr-defined]
        reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        if "not in the list of known backends" in reason:
            reason = ""
        raise UserError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device here{reason and f' ({reason})'}; "
            "unset JAX_PLATFORMS to take what there is, or set it to cpu"
            if asked
            else f"JAX cannot start its devices ({reason}); set JAX_PLATFORMS=cpu to do without"
        ) from None


_PARSE_FLAGS = "from jaxlib import _jax; getattr(_jax, 'CompileOptions', int)()"


@functools.cache
def refuse_xla_flags(flags: str) -> None:
    """Try XLA_FLAGS in a process of its own: XLA ends the process where it does not know one.

    Raises:
        UserError: they are wrong.
    """
    if not flags.strip():
        return
    command = [sys.executable, "-c", _PARSE_FLAGS]
    environment = {**os.environ, "XLA_FLAGS": flags}
    tried = subprocess.run(command, capture_output=True, env=environment, check=False)
    if tried.returncode:
        lines = tried.stderr.decode(errors="replace").splitlines()
        said = next((line.partition("] ")[2] for line in lines if "] " in line), "")
        raise UserError(
            f"XLA_FLAGS={flags}: XLA does not take it"
            f"{said and f' ({said[:200]})'}; correct or unset XLA_FLAGS"
        )


def keep_freed_memory() -> None:
    """Let malloc hold on to what it has.

    On a CPU XLA asks for a step's memory anew each time, and half of a step was page faults.

    Only where the C library is glibc, and not beside a GPU: there many threads decode, and each
    does better with an arena of its own.
    """
    if sys.platform == "linux" and not Path("/dev/nvidiactl").exists():
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            for option, value in _KEEP_FREED_MEMORY:
                mallopt(option, value)


def step_flops(step: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a jitted function, over all devices; 0 where JAX has no CPU.

    XLA's count of the program before it is optimised: afterwards, on GPUs, convolutions are calls
    into a library, and count as nothing. JAX counts that way for CPUs alone, so it is lowered for
    one, whatever the arguments lie on.
    """
    try:
        cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return 0.0
    described = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cpu), arguments
    )
    cost: Any = step.lower(*described).cost_analysis()  # type: ignore[attr-defined]
    return float((cost or {}).get("flops", 0.0))


def matmul_flops_per_s(dtype: str, size: int = 8192, repeats: int = 8) -> float:
    """What a large matrix multiplication of this type reaches on the first device, measured.

    Of random numbers: equal ones cost a GPU less power, and it clocks higher than a net lets it.
    """
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    best_s = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        results = [multiply(a) for _ in range(repeats)]
        jax.block_until_ready(results)
        best_s = min(best_s, (time.perf_counter() - started) / repeats)
    return 2.0 * size**3 / best_s


def peak_flops_per_s(dtype: str) -> float:
    """The matrix-multiply ceiling of all GPUs; 0 on a CPU, where utilisation tells little."""
    if jax.default_backend() == "cpu":
        return 0.0
    return matmul_flops_per_s(dtype) * jax.device_count()
