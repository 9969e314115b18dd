"""Does the device compute what the CPU computes? A part of gpu.py."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.on_gpu.bench import Bench
from benchmarks.on_gpu.jobs import child_environment, last_line

NETS = (
    "inception_v3,efficientnet_lite0,xception,mobilenet_v2,resnet50_v2,"
    "efficientnet_v2_s,convnext_tiny,inception_resnet_v2"
)
BACKBONES = {"layers": "small_cnn", "nets": NETS, "steps": "efficientnet_lite0,inception_v3"}
# Of float32 with whole products; a gradient passes through a whole net twice.
LIMITS = {"layers": 1e-4, "nets": 1e-4, "steps": 1e-3}
LEAST_ROUNDED = 1e-2  # what numbers of 8 (bfloat16) or 10 bits (TF32) may always differ by
# What is compared with the CPU's float32: the type of numbers, and how products of them are taken.
# By default a GPU rounds the factors of float32 products to 10 bits (TF32).
NUMBERS = {
    "float32": ("float32", "highest"),
    "float32, products by default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}
Arrays = dict[str, list[np.ndarray]]


def checks(bench: Bench) -> Iterator[dict[str, Any]]:
    """Rows of each layer, net and step: its distance from the CPU's float32, and the limit.

    Distances are norms of differences by norms. Where numbers are rounded, twice the distance of
    the CPU's own bfloat16 is allowed, or 1e-2 if that is less.
    """
    cpu = {"JAX_PLATFORMS": "cpu"}
    device = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # several processes share it
    with ThreadPoolExecutor(8) as pool:
        for kind in BACKBONES:
            exact = pool.submit(_answers, bench, kind, "reference", NUMBERS["float32"], cpu)
            rounded = pool.submit(_answers, bench, kind, "rounded", NUMBERS["bfloat16"], cpu)
            found = {
                name: pool.submit(_answers, bench, kind, name, numbers, device, on_device=True)
                for name, numbers in NUMBERS.items()
            }
            reference, of_bfloat16 = exact.result(), rounded.result()
            for numbers, answers in found.items():
                try:
                    given = answers.result()
                except RuntimeError as error:  # what failed leaves the others
                    yield {"what": f"{kind}: {error}", "numbers": numbers, "met": "no"}
                    continue
                for name, arrays in reference.items():
                    limit = LIMITS[kind]
                    if numbers != "float32":
                        limit = max(LEAST_ROUNDED, 2 * distance(of_bfloat16[name], arrays))
                    far = distance(given[name], arrays)
                    yield {
                        "what": name,
                        "numbers": numbers,
                        "distance": far,
                        "limit": limit,
                        "met": "yes" if far <= limit else "no",
                    }


def distance(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest distance of any of the arrays, relative to its norm; NaN is infinitely far."""
    relative = [
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
        for a, b in zip(found, expected, strict=True)
        if np.linalg.norm(b) or np.linalg.norm(a)
    ]
    return max((far if np.isfinite(far) else np.inf for far in relative), default=0.0)


def _answers(
    bench: Bench,
    kind: str,
    name: str,
    numbers: tuple[str, str],
    environment: dict[str, str],
    *,
    on_device: bool = False,
) -> Arrays:
    dtype, precision = numbers
    output = bench.directory / f"{kind}, {name}.npz"
    backbones = "small_cnn" if bench.smoke else BACKBONES[kind]
    command = [sys.executable, "-m", "benchmarks.on_gpu.answers", kind, "--output", str(output)]
    command += ["--dtype", dtype, "--precision", precision, "--backbones", backbones]
    if on_device and bench.smoke:
        command += ["--default_forms"]  # without a GPU, at least its forms
    done = subprocess.run(
        command, capture_output=True, text=True, env=child_environment(**environment), check=False
    )
    if done.returncode:
        raise RuntimeError(last_line(done.stderr))
    with np.load(output) as arrays:
        found: Arrays = {}
        for key in arrays:
            found.setdefault(key.rpartition("|")[0], []).append(arrays[key])
        return found
