"""Ceilings of a GPU, and forward pass and training step of the backbones: parts of gpu.py."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gpu_bench import CLASSES, Bench
from training import Training, training

from product_mil.train.runtime import matmul_flops_per_s


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


def _accessed(compiled: Any) -> float:
    return float((compiled.cost_analysis() or {}).get("bytes accessed", 0.0))


class Programs(NamedTuple):
    """Forward pass and training step of a net, compiled."""

    about: dict[str, Any]
    made: Training
    batch: Any
    forward: Any
    forward_flops: float
    step: Any
    step_flops: float


def _compile(bench: Bench, backbone: str, images: int) -> Programs:
    made = training(backbone, classes=CLASSES, dtype="bfloat16")
    batch = made.put(bench.drawn_batch(images))
    train: Any = made.step
    forward = made.predict_step.lower(*made.model, batch, made.log_prior)
    step = train.lower(made.state, batch, made.key)
    return Programs(
        about={"backbone": backbone, "batch": images},
        made=made,
        batch=batch,
        forward=forward.compile(),
        forward_flops=_flops(forward),
        step=step.compile(),
        step_flops=_flops(step),
    )


def _flops(lowered: Any) -> float:
    """As `step_flops` counts them, without tracing again."""
    return float((lowered.cost_analysis() or {}).get("flops", 0.0))


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
        found = bench.roofline(flops, _accessed(program), seconds)
        memory = program.memory_analysis()
        used = getattr(memory, "temp_size_in_bytes", 0) + getattr(
            memory, "argument_size_in_bytes", 0
        )
        yield {
            "what": what,
            **programs.about,
            "images_per_s": rate,
            **found,
            "program_gbyte": used / 1e9,
        }


def _compiled_together(bench: Bench, cases: list[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Compile a few nets at once on the host's cores, then measure each by itself."""
    together = 1 if bench.smoke else 4
    for first in range(0, len(cases), together):
        group = cases[first : first + together]
        if first and bench.left_s() < 60:
            yield from ({"what": "skipped: no time", "backbone": name} for name, _ in group)
            continue
        started = time.monotonic()
        with ThreadPoolExecutor(together) as pool:
            compiling = [pool.submit(_compile, bench, *case) for case in group]
        yield {"what": f"compiling {len(group)} nets", "seconds": time.monotonic() - started}
        for case, future in zip(group, compiling, strict=True):
            try:
                yield from _measure(bench, future.result())
            except Exception as error:  # one net that fails leaves the others
                reason = f"failed: {type(error).__name__}: {error}"[:200]
                yield {"what": reason, "backbone": case[0], "batch": case[1]}


def nets(bench: Bench) -> Iterator[dict[str, Any]]:
    yield from _compiled_together(bench, [(name, bench.batch) for name in bench.backbones])


def first_net(bench: Bench) -> Iterator[dict[str, Any]]:
    """The first backbone alone, as for other XLA flags."""
    yield from _compiled_together(bench, [(bench.backbones[0], bench.batch)])


def by_batch(bench: Bench) -> Iterator[dict[str, Any]]:
    sizes = (4,) if bench.smoke else (128, 256, 1024)
    name = "small_cnn" if bench.smoke else "inception_v3"
    yield from _compiled_together(bench, [(name, images) for images in sizes])
