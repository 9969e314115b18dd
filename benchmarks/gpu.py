"""Everything worth knowing of one GPU, unattended, in under 8 minutes: a JSON file and tables.

    python benchmarks/gpu.py [--output gpu.json] [--budget_s 460] [--parts NAMES] [--smoke]

Parts, in this order, each in a process of its own with a box of time, so that one that crashes or
hangs leaves the others; the file is written anew after each row:

- checks: layers, nets and training steps in float32 and bfloat16 beside the CPU's
- runs: the sample's run and its predictions beside the CPU's; a run that is stopped and goes on
- ceilings: the rate of a large bf16 matrix product, of a copy in memory, and from host to device
- nets: forward and training step of every backbone at 180 px in bf16: images/s, MFU against the
  matrix-product ceiling, and the share of the net's own roofline, max(FLOPs / matrix-product rate,
  bytes that the compiled program's kernels read and write / copy rate). A process for each of
  three groups, because XLA can abort; the most wanted net first and alone
- rivals: the same nets of timm under PyTorch (channels_last, bf16), where both are installed: all
  eager, then compiled
- profile: the kernels of a training step of Inception V3 by time, beside their memory's floor
- loader: images/s of the host's cores, against decoding alone
- end to end: training steps and prediction from a drawn BSON of Cdiscount's shape
- cdiscount: the same by the commands that a user types, from their start to their files
- depthwise: layers by shifted multiply-adds and by XLA's grouped convolution
- pointwise: 1x1 convolutions as products and as XLA's convolution
- flags: Inception V3 with other XLA flags
- batches: Inception V3 by batch size
- layouts: convolutions of Inception V3 as NHWC and as NCHW
- gpu decode: JPEGs by nvImageCodec, where it is installed

Parts for which no time was left are named; `--parts` runs them (after the ceilings, by which all
else is measured), and `--directory` keeps compiled programs and drawn data for them. At the end,
the targets stand beside the results. `--smoke` runs everything on a CPU, with small sizes.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, its package is found beside it

from benchmarks.measure import machine, table_of
from benchmarks.on_gpu.jobs import Rows, child_environment, rows_of
from benchmarks.on_gpu.targets import targets
from product_mil.files.whole import write_json

BOXES_S = {  # rivals, flags and batches: each program
    "checks": 120, "runs": 150, "ceilings": 50, "nets": 240, "rivals": 75, "profile": 60,
    "loader": 50, "end to end": 70, "cdiscount": 150, "depthwise": 40, "pointwise": 30,
    "flags": 60, "batches": 90, "layouts": 30, "gpu decode": 40,
}  # fmt: skip
NETS = (
    "inception_v3",
    "efficientnet_lite0,mobilenet_v2,xception,resnet50_v2",
    "efficientnet_v2_s,convnext_tiny,inception_resnet_v2",
)
BATCHES = (1024, 256)
RIVALS = {
    "inception_v3": "inception_v3",
    "efficientnet_lite0": "efficientnet_lite0",
    "mobilenet_v2": "mobilenetv2_100",
    "xception": "legacy_xception",
    "resnet50_v2": "resnetv2_50",
}
NO_GRAPHS = "--xla_gpu_enable_command_buffer="  # each kernel by itself, not in CUDA graphs
FLAGS = (
    "--xla_gpu_enable_command_buffer=+CONVOLUTION",  # convolutions too are part of CUDA graphs
    "--xla_gpu_experimental_enable_fusion_block_level_rewriter=true",  # fusions by Triton
    "--xla_gpu_experimental_enable_conv_fusion=true",  # more than bias and ReLU after cuDNN's
    NO_GRAPHS,
)
# Autotuning without its check of every result, to spare time.
QUICK = "--xla_gpu_autotune_level=2"
LEAST_S = 15.0  # less is not worth a start


class Run:
    """What was found so far, and the clock."""

    def __init__(self, args: argparse.Namespace, directory: Path) -> None:
        self.smoke, self.output, self.directory = args.smoke, args.output, directory
        self.until = time.monotonic() + args.budget_s
        self.results: dict[str, Rows] = {}
        self.environment = {
            "PYTHONPATH": child_environment()["PYTHONPATH"],
            # Programs of one part are met again by another.
            "JAX_COMPILATION_CACHE_DIR": str(directory / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip(),
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
        write_json(self.output, found)

    def ceiling(self, what: str, unit: str, scale: float) -> float:
        values = [row[unit] for row in self.results.get("ceilings", ()) if row["what"] == what]
        return scale * values[0] if values else 1.0

    def job(
        self, name: str, box_s: float, *arguments: str, xla_flag: str = ""
    ) -> Iterator[dict[str, Any]]:
        """A part, in a process of its own (on_gpu/part.py)."""
        command = [sys.executable, "-m", "benchmarks.on_gpu.part", name]
        command += ["--directory", str(self.directory), "--budget_s", str(box_s)]
        command += ["--matmul", str(self.ceiling("matrix product, bf16", "tflop_per_s", 1e12))]
        command += ["--copy", str(self.ceiling("copy", "gbyte_per_s", 1e9))]
        command += [*arguments, *(["--smoke"] if self.smoke else [])]
        flags = f"{self.environment['XLA_FLAGS']} {xla_flag}".strip()
        return rows_of(command, box_s, {**self.environment, "XLA_FLAGS": flags})

    def nets(self, box_s: float) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + box_s
        for names in NETS[: 1 if self.smoke else None]:
            left_s = until - time.monotonic()
            if left_s < LEAST_S:
                yield {"what": "skipped: no time", "backbone": names}
                continue
            yield from self.job("nets", left_s, "--backbones", names)

    def rivals(self, box_s: float) -> Iterator[dict[str, Any]]:
        missing = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
        if missing:
            yield {"what": f"skipped: no {' and no '.join(missing)} here"}
            return
        sizes = ("2", "64") if self.smoke else ("512", "180")
        nets = [*RIVALS.items()] if not self.smoke else [("mobilenet_v2", "mobilenetv2_100")]
        for form in ("eager",) if self.smoke else ("eager", "compiled"):
            for backbone, name in nets:
                about = {"backbone": backbone, "form": form}
                if self.left_s() < LEAST_S:
                    yield {**about, "what": "skipped: no time"}
                    continue
                command = [sys.executable, "-m", "benchmarks.on_gpu.rivals", name, *sizes, form]
                for row in rows_of(command, min(box_s, self.left_s()), self.environment):
                    yield {**about, **row}

    def flags(self, box_s: float) -> Iterator[dict[str, Any]]:
        for flag in FLAGS:
            if self.left_s() < LEAST_S:
                yield {"flags": flag, "what": "skipped: no time"}
                continue
            for row in self.job("nets", min(box_s, self.left_s()), xla_flag=flag):
                yield {"flags": flag, **row}

    def profile(self, box_s: float) -> Iterator[dict[str, Any]]:
        return self.job("profile", box_s, xla_flag=NO_GRAPHS)

    def batches(self, box_s: float) -> Iterator[dict[str, Any]]:
        for images in BATCHES:
            if self.left_s() < LEAST_S:
                yield {"batch": images, "what": "skipped: no time"}
                continue
            yield from self.job("nets", min(box_s, self.left_s()), "--batch", str(images))

    def left_s(self) -> float:
        return self.until - time.monotonic()

    def part(self, name: str) -> None:
        """Run a part; its rows are printed and written as they come."""
        rows = self.results[name] = []
        box_s = BOXES_S[name] * (4 if self.smoke else 1)  # a CPU takes longer
        box_s, started = min(box_s, self.left_s()), time.monotonic()
        if box_s < LEAST_S:
            rows.append({"what": "skipped: no time"})
        else:
            special = {
                "nets": self.nets,
                "rivals": self.rivals,
                "flags": self.flags,
                "batches": self.batches,
                "profile": self.profile,
            }
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
    found, *_ = rows_of([sys.executable, "-c", script], 120, {})
    return found["device"] if "device" in found else f"no device: {found['what']}"


def as_table(rows: Rows) -> str:
    return table_of(rows, _cell)


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
    parser.add_argument("--directory", type=Path, help="keep programs and data in it")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        run = Run(args, directory)
        print(f"{run.machine}, {run.device}", flush=True)
        if not args.smoke and not run.device.startswith(("gpu", "cuda")):
            sys.exit("JAX sees no GPU: install jax[cuda13], or try the script with --smoke")
        wanted = args.parts.split(",")
        # The ceilings come before all that is measured by them.
        wanted = [name for name in wanted if name != "ceilings"]
        first = [name for name in wanted if name in ("checks", "runs")]
        for name in (*first, "ceilings", *(name for name in wanted if name not in first)):
            run.part(name)
        rows = targets(run.results)
        print(f"\ntargets\n{as_table(rows)}")
    print(f"\n{args.output} written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
