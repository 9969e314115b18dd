"""Everything worth knowing of one GPU, unattended, in under 8 minutes: a JSON file and tables.

    python benchmarks/gpu.py [--output gpu.json] [--budget_s 460] [--smoke]

Parts, in this order, each in a process of its own with a box of time, so that one that crashes or
hangs leaves the others; the file is written anew after each row:

- ceilings: the rate of a large bf16 matrix product, of a copy in memory, and from host to device
- nets: forward and training step of every backbone at 180 px in bf16: images/s, MFU against the
  matrix-product ceiling, and the share of the net's own roofline, max(FLOPs / matrix-product rate,
  bytes accessed by the compiled program / copy rate)
- loader: images/s of the host's cores, against decoding alone
- end to end: training steps and prediction from a drawn BSON of Cdiscount's shape
- rivals: timm's `inception_v3`, `legacy_xception` and `mobilenetv2_100` under PyTorch
  (channels_last, bf16, eager and compiled), where both are installed
- batches: the training step of Inception V3 by batch size
- flags: Inception V3 with other XLA flags
- depthwise: layers by shifted multiply-adds and by XLA's grouped convolution
- layouts: convolutions of Inception V3 as NHWC and as NCHW

At the end the targets stand beside what was found. `--smoke` runs it all on a CPU in small.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_jobs import Rows, rows_of
from gpu_targets import targets
from measure import machine, table

HERE = Path(__file__).parent
BOXES_S = {  # rivals: each net
    "ceilings": 50, "nets": 170, "loader": 50, "end to end": 70, "rivals": 55, "batches": 50,
    "flags": 50, "depthwise": 40, "layouts": 30,
}  # fmt: skip
RIVALS = {
    "inception_v3": "inception_v3",
    "xception": "legacy_xception",
    "mobilenet_v2": "mobilenetv2_100",
}
FLAGS = (
    "--xla_gpu_enable_triton_gemm=false",
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_enable_command_buffer=",
)
LEAST_S = 15.0  # less is not worth a start


class Run:
    """What was found so far, and the clock."""

    def __init__(self, args: argparse.Namespace, directory: Path) -> None:
        self.smoke, self.output, self.directory = args.smoke, args.output, directory
        self.until = time.monotonic() + args.budget_s
        self.results: dict[str, Rows] = {}
        self.environment = {
            # Programs of one part are met again by another.
            "JAX_COMPILATION_CACHE_DIR": str(directory / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }
        self.machine = machine("jax", "torch", "timm", "simplejpeg")
        self.device = _device()

    def write(self) -> None:
        """The file as a whole, in one move."""
        found = {
            "machine": f"{self.machine}, {self.device}",
            "results": self.results,
            "targets": targets(self.results),
        }
        draft = self.output.with_name(self.output.name + ".draft")
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.output)

    def ceiling(self, what: str, unit: str, scale: float) -> float:
        values = [row[unit] for row in self.results.get("ceilings", ()) if row["what"] == what]
        return scale * values[0] if values else 1.0

    def job(self, name: str, box_s: float, **environment: str) -> Iterator[dict[str, Any]]:
        """A part of gpu_part.py."""
        command = [sys.executable, str(HERE / "gpu_part.py"), name]
        command += ["--directory", str(self.directory), "--budget_s", str(box_s)]
        command += ["--matmul", str(self.ceiling("matrix product, bf16", "tflop_per_s", 1e12))]
        command += ["--copy", str(self.ceiling("copy", "gbyte_per_s", 1e9))]
        command += ["--smoke"] if self.smoke else []
        return rows_of(command, box_s, {**self.environment, **environment})

    def rivals(self, box_s: float) -> Iterator[dict[str, Any]]:
        missing = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
        if missing:
            yield {"what": f"skipped: no {' and no '.join(missing)} here"}
            return
        sizes = ("2", "64") if self.smoke else ("512", "180")
        for backbone, name in list(RIVALS.items())[2 if self.smoke else 0 :]:
            command = [sys.executable, str(HERE / "gpu_torch.py"), name, *sizes]
            for row in rows_of(command, min(box_s, self.left_s()), {}):
                yield {"backbone": backbone, **row}

    def flags(self, box_s: float) -> Iterator[dict[str, Any]]:
        for flag in FLAGS:
            if self.left_s() < LEAST_S:
                return
            given = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
            for row in self.job("first net", min(box_s, self.left_s()), XLA_FLAGS=given):
                yield {"flags": flag, **row}

    def left_s(self) -> float:
        return self.until - time.monotonic()

    def part(self, name: str) -> None:
        """Run a part; its rows are printed and written as they come."""
        rows = self.results[name] = []
        box_s, started = min(BOXES_S[name], self.left_s()), time.monotonic()
        if box_s < LEAST_S:
            rows.append({"what": "skipped: no time"})
        else:
            special = {"rivals": self.rivals, "flags": self.flags}
            found = special[name](box_s) if name in special else self.job(name, box_s)
            for row in found:
                rows.append(row)
                self.write()
        rows.append({"what": "(this part)", "seconds": time.monotonic() - started})
        self.write()
        print(f"\n{name}\n{as_table(rows)}", flush=True)


def _device() -> str:
    """What JAX sees, asked in a process of its own, which leaves the device free."""
    script = (
        "import json, jax; d = jax.devices()[0];"
        "print(json.dumps({'device': d.platform + ' ' + d.device_kind}))"
    )
    (found,) = rows_of([sys.executable, "-c", script], 120, {})
    return found["device"] if "device" in found else f"no device: {found['what']}"


def as_table(rows: Rows) -> str:
    header = list(dict.fromkeys(key for row in rows for key in row))
    return table(header, [[_cell(row.get(key, "")) for key in header] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Everything worth knowing of one GPU")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget_s", type=float, default=460.0)
    parser.add_argument("--parts", default=",".join(BOXES_S))
    parser.add_argument("--smoke", action="store_true", help="tiny, on any device")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        run = Run(args, Path(directory))
        print(f"{run.machine}, {run.device}", flush=True)
        if not args.smoke and not run.device.startswith(("gpu", "cuda")):
            sys.exit("JAX sees no GPU: install jax[cuda13], or try the script with --smoke")
        for name in args.parts.split(","):
            run.part(name)
        rows = targets(run.results)
        print(f"\ntargets\n{as_table(rows)}")
    print(f"\n{args.output} written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
