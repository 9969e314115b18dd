"""From the command to the first training steps, and what compiled programs kept between runs save.

    python -m benchmarks.parts.start [--config configs/joint.py]

Starts the run three times with an empty, then a filled cache, each in a new directory, and ends it
when it has measured its first steps, which take about half a second. Importing JAX and reaching a
device is timed by itself in a process of its own. CPU time is the child's, all threads.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import machine, parser, report, table

MEASURED = "memory until here"
ROOT = Path(__file__).resolve().parents[2]


def cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def import_jax() -> tuple[float, float]:
    started, before = time.perf_counter(), cpu_of_children_s()
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], check=True)
    return time.perf_counter() - started, cpu_of_children_s() - before


def first_step(config: str, workdir: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds until the line that says what the first steps cost."""
    command = [sys.executable, "-m", "product_mil.main", f"--config={config}"]
    started, before = time.perf_counter(), cpu_of_children_s()
    process = subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = None
    for line in process.stdout:
        if MEASURED in line:
            found = time.perf_counter() - started
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if found is None:
        sys.exit(f"the run ended before it said {MEASURED!r}")
    return found, cpu_of_children_s() - before


def main() -> None:
    arguments = parser("From the command to the first steps")
    arguments.add_argument("--config", default="configs/joint.py")
    args = arguments.parse_args()
    config = "configs/joint.py:smoke" if args.smoke else args.config
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PRODUCT_MIL_CACHE": str(root / "cache"),
        }
        imported = min(import_jax() for _ in range(args.rounds))
        empty = first_step(config, root / "first", environment)
        kept = min(
            first_step(config, root / f"again-{number}", environment)
            for number in range(args.rounds)
        )
    beyond = [a - b for a, b in zip(kept, imported, strict=True)]
    rows = [
        ["importing JAX", *(f"{s:.1f} s" for s in imported)],
        ["first run, nothing compiled or drawn", *(f"{s:.1f} s" for s in empty)],
        ["later run, programs kept", *(f"{s:.1f} s" for s in kept)],
        ["later run beyond importing JAX", *(f"{s:.1f} s" for s in beyond)],
    ]
    text = table(["command to first steps", "wall", "CPU"], rows)
    ratios = {"first run to later run, CPU": empty[1] / kept[1]}
    report(args, f"{machine('jax', 'flax', 'grain')}; {config}", text, ratios)


if __name__ == "__main__":
    main()
