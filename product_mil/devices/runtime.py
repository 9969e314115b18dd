"""Settings of JAX and of the process, and what can be expected of the devices."""

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
    """The number of images in one forward pass that only embeds, over this process's devices.

    `at_most` is the number of images that there are, if that is known. On a CPU groups of 4 images
    per device stay in the cache, and run 1.4 times as fast as groups of 16 or more (MobileNetV2 at
    180 px). The sizes for GPUs are not measured yet. There are few sizes: each one is compiled.
    """
    sizes = [4] if jax.default_backend() == "cpu" else [16, 256]
    sizes = [size * jax.local_device_count() for size in sizes]
    return next((size for size in sizes if at_most is not None and at_most <= size), sizes[-1])


# For glibc's `mallopt`: one arena, no separate memory maps for large blocks, no memory given back.
_KEEP_FREED_MEMORY = ((-8, 1), (-4, 0), (-1, -1))


def configure_jax() -> None:
    """Start JAX, and let it keep compiled programs in the cache for later runs.

    Raises:
        UserError: JAX cannot be started as the environment asks, or too few files may be open.
    """
    keep_freed_memory()
    allow_open_files()
    if can_be_written("xla"):
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        # When the disk is full, the program is compiled again next time; no warning is needed.
        warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    refuse_xla_flags(os.environ.get("XLA_FLAGS", ""))
    start_devices()


# Training on 2 cores opens about 60 at once, and one for each further core.
MIN_OPEN_FILES = 128
_OPEN_FILES = 65_536  # a part of the embedding cache is open while it is mapped


def allow_open_files() -> None:
    """Raise the limit of open files of this process, as far as that is allowed and useful.

    Raises:
        UserError: the limit stays too low for any work.
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
        UserError: there is no device of the kind that JAX_PLATFORMS asks for.
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
    """Try XLA_FLAGS in a separate process, since XLA ends its process at an unknown flag.

    Raises:
        UserError: XLA does not accept the flags.
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
    """Let malloc keep freed memory instead of giving it back to the system.

    On a CPU, XLA allocates the memory of each step again, and page faults took half of a step. This
    needs glibc. It is not done beside a GPU, where many threads decode and each one is faster with
    its own arena.
    """
    if sys.platform == "linux" and not Path("/dev/nvidiactl").exists():
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            for option, value in _KEEP_FREED_MEMORY:
                mallopt(option, value)


def step_flops(step: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a jitted function, over all devices; 0 where JAX has no CPU.

    This is XLA's count for the program before optimisation. After it, convolutions on GPUs are
    calls into a library and count as 0. JAX gives the earlier count on CPUs only, so the function
    is lowered for a CPU, wherever the arguments are.
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


def matmul_flops_per_s(dtype: str, size: int = 8192) -> float:
    """The measured operations per second of a large matrix multiplication on the first device.

    It multiplies random numbers: with equal ones a GPU needs less power, and runs at a higher clock
    than with a net.
    """
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    best_s, repeats = float("inf"), 8
    for _ in range(3):
        started = time.perf_counter()
        results = [multiply(a) for _ in range(repeats)]
        jax.block_until_ready(results)
        best_s = min(best_s, (time.perf_counter() - started) / repeats)
    return 2.0 * size**3 / best_s


def peak_flops_per_s(dtype: str) -> float:
    """The operations per second of matrix multiplication on all GPUs; 0 on a CPU.

    On a CPU the share of it that is used would say little.
    """
    if jax.default_backend() == "cpu":
        return 0.0
    return matmul_flops_per_s(dtype) * jax.device_count()
