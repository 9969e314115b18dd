"""What XLA makes of the nets for an H100 or H200 that is not there: its programs' memory traffic.

    python -m benchmarks.on_gpu.program [--backbones inception_v3,xception] [--batch 512] [--kinds]

needs `jax[cuda13]` and no GPU: JAX compiles ahead of time for a described device, without
autotuning. Forward pass and training step are those of gpu.py, in bfloat16 at 180 px; each net has
a process of its own, because XLA can abort. Bounds are images/s at the data sheets' 989 TFLOP/s
and 3.35 TB/s (4.8 TB/s: H200), if nothing else took time. `--kinds` lists the traffic by the kind
of kernel, and `XLA_FLAGS` show what a flag changes.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs
os.environ["XLA_FLAGS"] = f"--xla_gpu_autotune_level=0 {os.environ.get('XLA_FLAGS', '')}".strip()


import jax
import numpy as np
from gpu import NETS
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.measure import table_of
from benchmarks.on_gpu.bench import CLASSES
from benchmarks.on_gpu.hlo_traffic import kernels
from benchmarks.on_gpu.jobs import rows_of
from benchmarks.parts import shaped
from benchmarks.parts.training import batch_of, training
from product_mil.data.plan import ShuffledPlan
from product_mil.devices.runtime import step_flops

FLOPS_PER_S, H100_BYTES_PER_S, H200_BYTES_PER_S = 989e12, 3.35e12, 4.8e12
SIZE_PX = 180
DESCRIPTION = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  l2_cache_size: 52428800 memory_bandwidth: 3350000000000 device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def programs(backbone: str, images: int) -> Iterator[dict[str, Any]]:
    """Forward pass and training step of a net, compiled; a row each."""
    described = topologies.get_topology_desc(
        "h100", "cuda", topology="1x1x1", target_config=DESCRIPTION
    )
    mesh = Mesh(np.asarray(described.devices), ("data",))

    def on_gpu(tree: Any, *axes: str) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
        )

    made = training(backbone, classes=CLASSES, dtype="bfloat16")
    counts = shaped.num_images(100_000)
    plan = ShuffledPlan(counts, shards=1, image_slots=images, seed=0)
    own = counts[plan.positions(0)[0]].tolist()
    pixels = batch_of([own], images, plan.product_slots, SIZE_PX, CLASSES)
    batch = on_gpu(pixels, "data")
    predict, train = made.predict_step, made.step
    cases: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "forward": (predict, (*on_gpu(made.model), batch, on_gpu(made.log_prior))),
        "training step": (train, (on_gpu(made.state), batch, on_gpu(made.key))),
    }
    for what, (function, arguments) in cases.items():
        compiled = function.lower(*arguments).compile()
        found = kernels(compiled.as_text())
        kinds: dict[str, float] = defaultdict(float)
        for kernel in found:
            kinds[kernel.kind] += kernel.bytes / 1e9
        moved = sum(kernel.bytes for kernel in found)
        flops = step_flops(function, *arguments)
        yield {
            "backbone": backbone,
            "program": what,
            "kernels": sum(kernel.times for kernel in found),
            "TFLOP": flops / 1e12,
            "GB moved": moved / 1e9,
            "GB float32": sum(kernel.float32_bytes for kernel in found) / 1e9,
            "GB of buffers": compiled.memory_analysis().temp_size_in_bytes / 1e9,
            "bound by FLOPs": FLOPS_PER_S * images / flops,
            "bound by memory, H100": H100_BYTES_PER_S * images / moved,
            "bound by memory, H200": H200_BYTES_PER_S * images / moved,
            "kinds": dict(kinds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Programs for a GPU that is not there")
    parser.add_argument("--backbones", default=",".join(NETS))
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--kinds", action="store_true", help="traffic by the kind of kernel")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        for row in programs(args.one, args.batch):
            print(json.dumps(row), flush=True)
        return
    rows = []
    for name in args.backbones.split(","):
        command = [
            sys.executable,
            "-m",
            "benchmarks.on_gpu.program",
            "--one",
            name,
            "--batch",
            str(args.batch),
        ]
        for row in rows_of(command, 900, {}):
            kinds = row.pop("kinds", {})
            rows.append({"backbone": name, **row})
            if args.kinds:
                print(f"{name}, {row.get('program')}")
                for kind, gbyte in sorted(kinds.items(), key=lambda kind: -kind[1]):
                    print(f"  {gbyte:8.2f} GB {kind}")
    print(table_of(rows, _cell))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return str(value)


if __name__ == "__main__":
    main()
