"""Ceilings of a GPU, and forward pass and training step of the backbones: parts of gpu.py."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.on_gpu.bench import CLASSES, Bench
from benchmarks.on_gpu.hlo_traffic import kernels
from benchmarks.parts.training import Training, training
from product_mil.devices.runtime import matmul_flops_per_s, step_flops


def ceilings(bench: Bench) -> Iterator[dict[str, Any]]:
    bench.matmul = matmul_flops_per_s("bfloat16", 256 if bench.smoke else 8192)
    x = jnp.ones((1 << (20 if bench.smoke else 30),), jnp.bfloat16)
    copied = jax.jit(lambda x: x + 1)  # reads and writes each byte once
    bench.copy = 2 * x.nbytes / bench.seconds(lambda: copied(x))
    yield {"what": "matrix product, bf16", "tflop_per_s": bench.matmul / 1e12}
    yield {"what": "copy", "gbyte_per_s": bench.copy / 1e9}
    pixels = np.ones((bench.batch, bench.size_px, bench.size_px, 3), np.uint8)
    sent_s = bench.seconds(lambda: jax.device_put(pixels))
    yield {"what": "host to device, a batch", "gbyte_per_s": pixels.nbytes / sent_s / 1e9}


class Programs(NamedTuple):
    """Forward pass and training step of a net, compiled."""

    about: dict[str, Any]
    made: Training
    batch: Any
    forward: Any
    forward_flops: float
    step: Any
    step_flops: float


def compiled(bench: Bench, backbone: str) -> Programs:
    """Both programs, compiled at once."""
    made = training(backbone, classes=CLASSES, dtype="bfloat16")
    batch = made.put(bench.drawn_batch(bench.batch))
    train: Any = made.step
    of_forward, of_step = (*made.model, batch, made.log_prior), (made.state, batch, made.key)
    forward, step = made.predict_step.lower(*of_forward), train.lower(*of_step)
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(lambda lowered: lowered.compile(), (forward, step)))
    return Programs(
        about={"backbone": backbone, "batch": bench.batch},
        made=made,
        batch=batch,
        forward=programs[0],
        forward_flops=step_flops(made.predict_step, *of_forward),
        step=programs[1],
        step_flops=step_flops(train, *of_step),
    )


def _measure(bench: Bench, programs: Programs) -> Iterator[dict[str, Any]]:
    made, batch, state = programs.made, programs.batch, programs.made.state

    def forward() -> Any:
        return programs.forward(*made.model, batch, made.log_prior)

    def step() -> Any:
        nonlocal state
        state, loss = programs.step(state, batch, made.key)
        return loss

    for what, run, program, flops in (
        ("forward", forward, programs.forward, programs.forward_flops),
        ("training step", step, programs.step, programs.step_flops),
    ):
        seconds = bench.seconds(run)
        rate = programs.about["batch"] / seconds
        run_kernels = kernels(program.as_text())
        found = bench.roofline(flops, sum(kernel.bytes for kernel in run_kernels), seconds)
        memory = program.memory_analysis()
        used = getattr(memory, "temp_size_in_bytes", 0) + getattr(
            memory, "argument_size_in_bytes", 0
        )
        yield {
            "what": what,
            **programs.about,
            "images_per_s": rate,
            **found,
            "kernels": sum(kernel.times for kernel in run_kernels),
            "program_gbyte": used / 1e9,
        }


def nets(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compile them at once on the host's cores, then measure each by itself."""
    started = time.monotonic()
    with ThreadPoolExecutor(len(bench.backbones)) as pool:
        compiling = {name: pool.submit(compiled, bench, name) for name in bench.backbones}
    yield {"what": f"compiling {len(compiling)} nets", "seconds": time.monotonic() - started}
    for name, future in compiling.items():
        try:
            yield from _measure(bench, future.result())
        except Exception as error:  # one net that fails leaves the others
            reason = f"failed: {type(error).__name__}: {error}"[:200]
            yield {"what": reason, "backbone": name, "batch": bench.batch}
