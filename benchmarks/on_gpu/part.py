"""One part of gpu.py in a process of its own: rows of JSON on standard output, as they come."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.on_gpu.bench import Bench
from benchmarks.on_gpu.checks import checks
from benchmarks.on_gpu.data import end_to_end, loader
from benchmarks.on_gpu.decode import gpu_decode
from benchmarks.on_gpu.layers import depthwise, layouts, pointwise
from benchmarks.on_gpu.nets import ceilings, nets
from benchmarks.on_gpu.profile import profile
from benchmarks.on_gpu.runs import cdiscount, runs

PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "ceilings": ceilings,
    "nets": nets,
    "loader": loader,
    "end to end": end_to_end,
    "gpu decode": gpu_decode,
    "depthwise": depthwise,
    "pointwise": pointwise,
    "layouts": layouts,
    "checks": checks,
    "runs": runs,
    "cdiscount": cdiscount,
    "profile": profile,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="One part of gpu.py")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--directory", type=Path, required=True, help="for what is drawn")
    parser.add_argument("--budget_s", type=float, default=120.0)
    parser.add_argument("--matmul", type=float, default=1.0, help="FLOPs a second")
    parser.add_argument("--copy", type=float, default=1.0, help="bytes a second")
    parser.add_argument("--backbones", default="inception_v3", help="of the part `nets`")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    # What leaves the device to its commands must not take the device's memory itself.
    here = args.part not in ("checks", "runs", "cdiscount", "loader")
    if here and not args.smoke and jax.default_backend() == "cpu":
        sys.exit("JAX sees no GPU: install jax[cuda13], or give --smoke to try the script on a CPU")
    try:
        for row in PARTS[args.part](Bench(args)):
            print(json.dumps(row), flush=True)
    except Exception as error:  # the part says so; its rows so far stand
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {error}"[:300].replace("\n", " "))


if __name__ == "__main__":
    main()
