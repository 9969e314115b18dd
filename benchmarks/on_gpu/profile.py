"""Where the time of a training step goes, kernel by kernel: a part of gpu.py."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

from benchmarks.on_gpu.bench import Bench
from benchmarks.on_gpu.hlo_traffic import Kernel, kernels
from benchmarks.on_gpu.nets import Programs, compiled

CALLS = 3
SLOWEST = 12


class Spent(NamedTuple):
    """Time of an instruction in a call, and the least that its memory traffic takes."""

    kernel: Kernel
    ms: float
    least_ms: float


def profile(bench: Bench) -> Iterator[dict[str, Any]]:
    """Kinds of kernels by their time, then the single ones furthest from memory's floor."""
    for backbone in bench.backbones:
        programs = compiled(bench, backbone)
        state = programs.made.state

        def steps(programs: Programs = programs) -> None:
            nonlocal state
            for _ in range(CALLS):
                state, _ = programs.step(state, programs.batch, programs.made.key)
            jax.block_until_ready(state)

        steps()
        with tempfile.TemporaryDirectory() as directory:
            with jax.profiler.trace(directory):
                steps()
            (path,) = Path(directory).rglob("*.xplane.pb")
            ms_of = {name: ms / CALLS for name, ms in milliseconds(path).items()}
        found = kernels(programs.step.as_text())
        yield from rows_of_kernels(backbone, found, ms_of, bench.copy)


def rows_of_kernels(
    backbone: str, found: list[Kernel], ms_of: dict[str, float], copy: float
) -> Iterator[dict[str, Any]]:
    """Rows from a program's kernels, the time of each by its name, and the rate of copies."""
    spent = [
        Spent(kernel, ms_of[kernel.name], 1000 * kernel.bytes / copy)
        for kernel in found
        if kernel.name in ms_of
    ]
    total_ms = sum(of.ms for of in spent)
    others_ms = sum(ms_of.values()) - total_ms
    about = {"backbone": backbone}
    yield {"what": "all kernels", **about, "ms": total_ms + others_ms, "kernels": len(found)}
    yield {"what": "(of no known kernel)", **about, "ms": others_ms}
    by_kind = defaultdict(list)
    for of in spent:
        by_kind[of.kernel.kind].append(of)
    for kind, own in sorted(by_kind.items(), key=lambda item: -sum(of.ms for of in item[1])):
        yield {"what": kind, **about, **_sums(own), "kernels": len(own)}
    for of in sorted(spent, key=lambda of: of.least_ms - of.ms)[:SLOWEST]:
        yield {"what": f"{of.kernel.name} {of.kernel.shape}", **about, **_sums([of])}


def _sums(own: list[Spent]) -> dict[str, float]:
    ms = sum(of.ms for of in own)
    gbyte = sum(of.kernel.bytes for of in own) / 1e9
    beyond = sum(of.ms - of.least_ms for of in own)
    return {"ms": ms, "gbyte": gbyte, "gbyte_per_s": 1000 * gbyte / ms, "beyond_memory_ms": beyond}


def milliseconds(path: Path) -> dict[str, float]:
    """Time of each instruction in a profile, over all its calls.

    A GPU's kernels stand in the lines of its streams; other lines have the same times again.
    """
    found: dict[str, float] = defaultdict(float)
    planes = list(ProfileData.from_file(str(path)).planes)
    on_gpu = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in on_gpu or planes:
        for line in plane.lines:
            if on_gpu and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    found[str(name)] += event.duration_ns / 1e6
    return found
