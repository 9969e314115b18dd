"""How this program uses JAX: set in one place, and what it can expect of the devices."""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from product_mil.cache import cache_root


def embedding_batch_images() -> int:
    """Images in one forward pass that only embeds.

    On a CPU groups of 4 a device stay in cache and run 1.4 times as fast as groups of 16 or more
    (MobileNetV2 at 180 px); the size for GPUs is not measured yet.
    """
    per_device = 4 if jax.default_backend() == "cpu" else 256
    return per_device * jax.device_count()


# glibc's `mallopt`: one arena, no memory maps of their own for large blocks, nothing handed back.
_KEEP_FREED_MEMORY = ((-8, 1), (-4, 0), (-1, -1))


def configure_jax() -> None:
    """Keep compiled programs between runs, and Orbax's running commentary out of the terminal.

    To be called before JAX starts its devices.
    """
    keep_freed_memory()
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
