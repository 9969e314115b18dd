"""Everything worth knowing of one GPU, unattended, in under 8 minutes: a JSON file and a table.

    python benchmarks/gpu.py [--output gpu.json] [--budget_s 460] [--smoke]

Parts, in this order, each skipped (and said) once the time is up, each with its own errors caught:

- ceilings: the rate of a large bf16 matrix product, and of a copy in memory
- nets: forward and training step of every backbone at 180 px in bf16: images/s, MFU against the
  matrix-product ceiling, and the share of the net's own roofline, max(FLOPs / matrix-product rate,
  bytes accessed by the compiled program / copy rate); the device's peak memory
- loader: images/s of the host's cores, against decoding alone
- end to end: training steps and prediction from a drawn BSON of Cdiscount's shape
- rivals: timm's `inception_v3`, `legacy_xception` and `mobilenetv2_100` under PyTorch
  (channels_last, bf16, `torch.compile`), where timm is at hand
- batches: the training step of Inception V3 by batch size
- depthwise: layers by shifted multiply-adds and by XLA's grouped convolution
- layouts: a convolution of Inception V3 as NHWC and as NCHW

FLOPs are XLA's count before optimisation: afterwards convolutions are calls into a library, which
count as nothing. `--smoke` runs it all on a CPU in small.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is on the same GPU

import jax
import jax.numpy as jnp
import numpy as np
import shaped
from jax import lax
from measure import machine, table
from training import Training, batch_of, training

from product_mil.data.index import open_catalogue
from product_mil.data.loader import PixelSource, Products, batches
from product_mil.data.plan import SequentialPlan, ShuffledPlan
from product_mil.model.backbones import BACKBONES
from product_mil.train.runtime import matmul_flops_per_s, step_flops

CLASSES = 5270
RIVALS = {
    "inception_v3": "inception_v3",
    "xception": "legacy_xception",
    "mobilenet_v2": "mobilenetv2_100",
}
Rows = list[dict[str, Any]]


class Bench:
    """The sizes to run with, the ceilings once measured, and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.smoke, self.budget_s = args.smoke, args.budget_s
        self.started = time.monotonic()
        self.size_px = 75 if args.smoke else 180
        self.batch = 8 if args.smoke else 512
        self.products = 300 if args.smoke else 100_000
        self.backbones = ["small_cnn"] if args.smoke else _all_backbones()
        self.matmul, self.copy = 1.0, 1.0
        self.directory = Path(args.directory)

    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.started)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Best time of a call whose result is waited for, of as many as half a second holds."""
        jax.block_until_ready(run())
        best, until, number = float("inf"), time.perf_counter() + 0.5, 0
        while number < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            jax.block_until_ready(run())
            best, number = min(best, time.perf_counter() - started), number + 1
            if self.smoke:
                break
        return best

    def roofline(self, flops: float, accessed_bytes: float, seconds: float) -> dict[str, Any]:
        floor_s = max(flops / self.matmul, accessed_bytes / self.copy)
        return {
            "gflop": flops / 1e9,
            "gbyte": accessed_bytes / 1e9,
            "mfu": flops / self.matmul / seconds,
            "of_roofline": floor_s / seconds,
        }


def _all_backbones() -> list[str]:
    """The three that matter most first."""
    first = ["inception_v3", "xception", "mobilenet_v2"]
    return [*first, *(name for name in BACKBONES if name not in (*first, "small_cnn"))]


def ceilings(bench: Bench) -> Iterator[dict[str, Any]]:
    bench.matmul = matmul_flops_per_s("bfloat16", 256 if bench.smoke else 8192)
    x = jnp.ones((1 << (20 if bench.smoke else 30),), jnp.bfloat16)
    copied = jax.jit(lambda x: x + 1)  # reads and writes each byte once
    bench.copy = 2 * x.nbytes / bench.seconds(lambda: copied(x))
    yield {"what": "matrix product, bf16", "tflop_per_s": bench.matmul / 1e12}
    yield {"what": "copy", "gbyte_per_s": bench.copy / 1e9}


def _batch(bench: Bench, images: int) -> Any:
    counts = shaped.num_images(4 * images)
    plan = ShuffledPlan(counts, shards=1, image_slots=images, seed=0)
    own = counts[plan.rows(0)[0]].tolist()
    return batch_of([own], images, plan.product_slots, bench.size_px, CLASSES)


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
    batch = made.put(_batch(bench, images))
    forward = (*made.model, batch, made.log_prior)
    step = (made.state, batch, made.key)
    train: Any = made.step
    return Programs(
        about={"backbone": backbone, "batch": images},
        made=made,
        batch=batch,
        forward=made.predict_step.lower(*forward).compile(),
        forward_flops=step_flops(made.predict_step, *forward),
        step=train.lower(*step).compile(),
        step_flops=step_flops(train, *step),
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
        # The parts after this one count too.
        if bench.left_s() < (0.35 * bench.budget_s if first else 60):
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


def _memory() -> dict[str, float]:
    stats = jax.devices()[0].memory_stats() or {}
    return {"peak_gbyte": stats["peak_bytes_in_use"] / 1e9} if "peak_bytes_in_use" in stats else {}


def nets(bench: Bench) -> Iterator[dict[str, Any]]:
    yield from _compiled_together(bench, [(name, bench.batch) for name in bench.backbones])


def by_batch(bench: Bench) -> Iterator[dict[str, Any]]:
    sizes = (4,) if bench.smoke else (128, 256, 1024)
    name = "small_cnn" if bench.smoke else "inception_v3"
    yield from _compiled_together(bench, [(name, images) for images in sizes])


def _data(bench: Bench) -> Products:
    path = bench.directory / "data.bson"
    if not path.exists():
        shaped.write(path, bench.products, classes=CLASSES)
    catalogue = open_catalogue(path, progress=False)
    n = catalogue.num_products
    labels = (np.asarray(catalogue.category_id) % CLASSES).astype(np.int32)
    return Products(catalogue, np.arange(n), labels, 4)


def loader(bench: Bench) -> Iterator[dict[str, Any]]:
    """In a process of its own: nothing of JAX's threads takes part."""
    threads = os.cpu_count() or 1
    script = Path(__file__).with_name("loader.py")
    out = bench.directory / "loader.json"
    command = [sys.executable, str(script), "--threads", str(threads), "--rounds", "3"]
    command += ["--json", str(out), *(["--smoke"] if bench.smoke else ["--steps", "128"])]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    for name, value in json.loads(out.read_text())["ratios"].items():
        yield {"what": name, "ratio": value}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[0] == str(threads):
            yield {"what": cells[1], "images_per_s": float(cells[4].replace(",", ""))}


def end_to_end(bench: Bench) -> Iterator[dict[str, Any]]:
    """Decoded on the host and sent to the device as a run does it, Inception V3."""
    products = _data(bench)
    backbone = "small_cnn" if bench.smoke else "inception_v3"
    made = training(backbone, classes=CLASSES, dtype="bfloat16")
    counts = products.num_images
    size_px = 180 if not bench.smoke else 75
    predicted = PixelSource(
        products, SequentialPlan(counts, shards=1, image_slots=bench.batch), image_size_px=size_px
    )
    yield _timed(bench, "prediction", predicted, made, made.predict)
    state = made.state

    def step(batch: Any) -> Any:
        nonlocal state
        state, loss = made.step(state, batch, made.key)
        return loss

    trained = PixelSource(
        products,
        ShuffledPlan(counts, shards=1, image_slots=bench.batch, seed=0),
        image_size_px=size_px,
    )
    yield _timed(bench, "training", trained, made, step)


def _timed(
    bench: Bench, what: str, source: PixelSource, made: Training, run: Callable[[Any], Any]
) -> dict[str, Any]:
    """Images/s after the first batch, which compiles; a fifth of the time then left at most."""
    images, waited_s, started, result = 0, 0.0, 0.0, None
    before: list[Any] = []
    until = float("inf")
    loaded_batches = batches(source)
    while time.monotonic() < until:
        asked = time.monotonic()
        loaded = next(loaded_batches, None)
        if loaded is None:
            break
        waited_s += time.monotonic() - asked
        result = run(made.put(loaded.batch))
        before.append(result)
        if started == 0.0:
            jax.block_until_ready(result)
            images, waited_s, started = 0, 0.0, time.monotonic()
            until = started + max(bench.left_s() / 5, 1.0)
            continue
        images += int((loaded.batch.slots.segment < loaded.batch.slots.label.shape[1]).sum())
        if len(before) > 2:
            jax.block_until_ready(before.pop(0))
    jax.block_until_ready(result)
    spent_s = max(time.monotonic() - started, 1e-9)
    rate = images / spent_s
    found = {"what": what, "images": images, "images_per_s": rate, "wait_share": waited_s / spent_s}
    return found | _memory()


def rivals(bench: Bench) -> Iterator[dict[str, Any]]:
    """In a process of its own, so that its memory is given back."""
    script = Path(__file__).with_name("gpu_torch.py")
    for backbone, name in RIVALS.items():
        if backbone not in bench.backbones:
            continue
        if bench.left_s() < 60 and not bench.smoke:
            yield {"what": "skipped: no time", "backbone": backbone}
            continue
        command = [sys.executable, str(script), name, str(bench.batch), str(bench.size_px)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=min(bench.left_s(), 90), check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1][:200]
            yield {"what": f"not measured: {reason}", "backbone": name}
        yield from ({"backbone": name, **json.loads(line)} for line in lines)


def depthwise(bench: Bench) -> Iterator[dict[str, Any]]:
    """Layers of MobileNetV2 and Xception, both forms, forward and gradients."""
    from product_mil.model.convolutions import depthwise_conv_lax, depthwise_conv_shifted

    shapes = [(45, 144, 1), (12, 384, 1), (90, 96, 2), (22, 728, 1), (11, 728, 1)]
    forms = {"shifted": depthwise_conv_shifted, "library": depthwise_conv_lax}
    for size, features, stride in shapes[:1] if bench.smoke else shapes:
        x = jnp.ones((bench.batch, size, size, features), jnp.bfloat16)
        kernel = jnp.ones((3, 3, features), jnp.bfloat16)
        pads = tuple(lax.padtype_to_pads((size, size), (3, 3), (stride, stride), "SAME"))
        for form, function in forms.items():

            def loss(x: Any, kernel: Any, f: Any = function, s: int = stride, p: Any = pads) -> Any:
                return jnp.square(f(x, kernel, s, p).astype(jnp.float32)).mean()

            gradients = jax.jit(jax.grad(loss, (0, 1)))
            seconds = bench.seconds(lambda g=gradients, x=x, k=kernel: g(x, k))
            what = f"{size} px, {features} channels, stride {stride}, gradients, {form}"
            yield {"what": what, "ms": 1000 * seconds}


def layouts(bench: Bench) -> Iterator[dict[str, Any]]:
    """3x3 convolutions of Inception V3 in both layouts."""
    for size, features in [(43, 64)] if bench.smoke else [(43, 64), (20, 96), (9, 192)]:
        for layout in ("NHWC", "NCHW"):
            sizes = {"N": bench.batch, "H": size, "W": size, "C": features}
            x = jnp.ones([sizes[axis] for axis in layout], jnp.bfloat16)
            kernel = jnp.ones((3, 3, features, features), jnp.bfloat16)
            names = (layout, "HWIO", layout)
            convolve = jax.jit(
                lambda x, k, n=names: lax.conv_general_dilated(
                    x, k, (1, 1), "SAME", dimension_numbers=n
                )
            )
            seconds = bench.seconds(lambda c=convolve, x=x, k=kernel: c(x, k))
            yield {"what": f"3x3, {size} px, {features} channels, {layout}", "ms": 1000 * seconds}


PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "ceilings": ceilings,
    "nets": nets,
    "loader": loader,
    "end to end": end_to_end,
    "rivals": rivals,
    "batches": by_batch,
    "depthwise": depthwise,
    "layouts": layouts,
}


def run(bench: Bench, output: Path, about: str, names: list[str]) -> dict[str, Rows]:
    """All parts; the file is written anew after each, so that a kill loses little."""
    results: dict[str, Rows] = {}
    for name in names:
        rows: Rows = []
        results[name] = rows
        started = time.monotonic()
        try:
            if bench.left_s() < 15:
                rows.append({"what": "skipped: no time"})
            else:
                rows.extend(PARTS[name](bench))
        except Exception as error:  # one part that fails leaves the others
            traceback.print_exc()
            rows.append({"what": f"failed: {type(error).__name__}: {error}"[:300]})
        rows.append({"what": "(this part)", "seconds": time.monotonic() - started})
        found = {"machine": about, "results": results}
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"\n{name}\n{as_table(rows)}", flush=True)
    return results


def as_table(rows: Rows) -> str:
    header = list(dict.fromkeys(key for row in rows for key in row))
    return table(header, [[_cell(row.get(key, "")) for key in header] for row in rows])


def _cell(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 1000
        else f"{value:,.0f}"
        if (isinstance(value, float))
        else str(value)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Everything worth knowing of one GPU")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget_s", type=float, default=460.0)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--smoke", action="store_true", help="tiny, on any device")
    args = parser.parse_args()
    if jax.default_backend() == "cpu" and not args.smoke:
        sys.exit("JAX sees no GPU: install jax[cuda13], or give --smoke to try the script on a CPU")
    with tempfile.TemporaryDirectory() as directory:
        args.directory = directory
        device = jax.devices()[0].device_kind
        about = f"{machine('jax', 'torch', 'timm', 'simplejpeg')}, {device}"
        print(about, flush=True)
        bench = Bench(args)
        run(bench, args.output, about, args.parts.split(","))
    print(f"\n{args.output} written in {time.monotonic() - bench.started:.0f} s")


if __name__ == "__main__":
    main()
