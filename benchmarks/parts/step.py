"""The training step against Keras on JAX and PyTorch, and what the loop and Python add to it.

    python -m benchmarks.parts.step [--backbone inception_v3] [--batch 8] [--rounds 3] [--torch]

needs the extra `test` (Keras). Same net, batch, size, precision and BatchNorm mode; both compiled
by `jax.jit`, in turns (the cases of parts/depthwise.py: loss, gradients, SGD, statistics).
`--torch` adds the net in PyTorch, for `--backbone mobilenet_v2` or `efficientnet_lite0`, where
PyTorch is installed; `--parts torch` leaves Keras out. On one core: `taskset -c 1 python ...`.
The floor is XLA's own count of the compiled step, printed as FLOPs and bytes.

Dispatch: Python's share of a step, the time until the call returns when nothing is waited for, on
the whole state of the net with pixels too small to matter. Loop: 'train_stage' over the same steps
as a bare loop that does nothing but put the batch and call them, with as many in flight; the best
of the rounds, by step, from the second step to the end of the last.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import Best, in_turns, machine, parser, report, table
from benchmarks.parts.depthwise import net_cases
from benchmarks.parts.training import Training, batch_of, loaded_of, training
from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.devices.runtime import keep_freed_memory
from product_mil.train.checkpoint import Checkpoints
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage, train_stage
from product_mil.train.pace import STEPS_IN_FLIGHT

CLASSES = 100


def against_rivals(
    args: Any, size_px: int, parts: list[str]
) -> tuple[list[list[str]], dict[str, float]]:
    """Ours, Keras and PyTorch in turns, and ours by Keras."""
    cases: dict[str, Any] = {}
    flops: dict[str, Any] = {}
    for what, who, function, arguments in net_cases(args.backbone, args.batch, size_px):
        if "batch statistics" in what and args.running_only:
            continue
        if who == "Keras" and "keras" not in parts:
            continue
        compiled = jax.jit(function).lower(*arguments).compile()
        name = f"{what}, {who}"
        cost: Any = compiled.cost_analysis()
        flops[name] = cost.get("flops", 0), cost.get("bytes accessed", 0)
        cases[name] = lambda c=compiled, a=arguments: jax.block_until_ready(c(*a))
    if args.torch or "torch" in parts:
        cases |= torch_cases(args.backbone, args.batch, size_px, args.running_only)
    best = in_turns(cases, args.rounds)
    rows = [_row(name, b, flops.get(name), args.batch) for name, b in best.items()]
    ratios = {
        f"{name.removesuffix(', ours')}, times Keras, CPU": (
            best[name.replace(", ours", ", Keras")].cpu_s / b.cpu_s
        )
        for name, b in best.items()
        if name.endswith(", ours") and "keras" in parts
    }
    return rows, ratios


def _row(name: str, best: Best, cost: Any, batch: int) -> list[str]:
    counted = f"{cost[0] / 1e9:.1f} GFLOP, {cost[1] / 1e9:.1f} GB" if cost else ""
    rate = f"{batch / best.wall_s:.1f}"
    return [name, f"{best.wall_s:.3f} s", f"{best.cpu_s:.3f} s", rate, counted]


def torch_cases(backbone: str, batch: int, size_px: int, running_only: bool) -> dict[str, Any]:
    """In both layouts of memory: on a CPU either may be the faster one."""
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks.parts.torch_nets import MobileNet

    def forward(net: Any, pixels: Any) -> None:
        net.eval()
        with torch.inference_mode():
            net(pixels)

    def step(net: Any, pixels: Any, optimizer: Any, *, batch_statistics: bool) -> None:
        net.train(batch_statistics)
        optimizer.zero_grad()
        net(pixels).square().mean().backward()
        optimizer.step()

    cases: dict[str, Any] = {}
    layouts = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
    for layout, memory_format in layouts.items():
        net = MobileNet(backbone).to(memory_format=memory_format)
        pixels = torch.rand(batch, 3, size_px, size_px).to(memory_format=memory_format)
        train = partial(step, net, pixels, torch.optim.SGD(net.parameters(), lr=1e-3))
        name, who = f"{backbone} {{}} {size_px} px", f"PyTorch {torch.__version__}, {layout}"
        cases[f"{name.format('forward')}, {who}"] = partial(forward, net, pixels)
        for mode in ("running",) if running_only else ("running", "batch"):
            what = f"{name.format('step')}, {mode} statistics, {who}"
            cases[what] = partial(train, batch_statistics=mode == "batch")
    return cases


def dispatch_ms(made: Training, batch: Any, steps: int = 50) -> float:
    """Time until the call of a step returns, the least of several.

    Before each, the step before is waited for, so that no full queue is counted.
    """
    state = made.fresh()
    least = float("inf")
    for _ in range(steps):
        started = time.perf_counter()
        state, loss = made.step(state, batch, made.key)
        least = min(least, time.perf_counter() - started)
        jax.block_until_ready(loss)
    return 1000 * least


class Loop:
    """The same steps called bare and by `train_stage`, both with as many in flight."""

    def __init__(self, steps: int, size_px: int, slots: int) -> None:
        self.made = training("small_cnn", classes=CLASSES)
        self.host = batch_of([[2] * (slots // 2)], slots, slots, size_px, CLASSES)
        self.steps, self.loss, self.began = steps, None, (0.0, 0.0)

    def step(self, *arguments: Any) -> tuple[Any, Any]:
        state, self.loss = self.made.step(*arguments)
        return state, self.loss

    def batches(self, _: int) -> Iterator[Loaded]:
        """The first is not counted: the loop waits for it, and what it begins with is past."""
        yield loaded_of(self.host)
        jax.block_until_ready(self.loss)
        self.began = time.perf_counter(), time.process_time()
        for _ in range(self.steps):
            yield loaded_of(self.host)

    def bare(self) -> None:
        state, in_flight = self.made.fresh(), deque()
        for _ in self.batches(0):
            state, loss = self.step(state, self.made.put(self.host), self.made.key)
            in_flight.append(loss)
            if len(in_flight) > STEPS_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())

    def in_the_loop(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            workdir = Path(directory)
            never = self.steps + 2  # no evaluation, no checkpoint
            stage = Stage(
                name="finetune",
                num_steps=never,
                evaluate_every_steps=never,
                patience_evaluations=0,
                checkpoint_every_s=1e9,
                train_step=self.step,
                calibrate=lambda parameters, statistics: statistics,
                evaluate=lambda parameters, statistics: {},
                batches=self.batches,
                key=self.made.key,
                mesh=self.made.mesh,
                run_record={},
            )
            log = RunLog(workdir)
            faults = FaultList(workdir / "faults.csv")
            # StopIteration is the batches' end.
            with Checkpoints(workdir / "checkpoints") as checkpoints, suppress(StopIteration):
                train_stage(stage, self.made.fresh(), checkpoints, log, faults)
            log.close()

    def best(self, run: Callable[[], None], best: Best) -> Best:
        """The better of `best` and this run, by step, up to the end of the last one."""
        run()
        jax.block_until_ready(self.loss)
        wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        return Best(min(best.wall_s, wall / self.steps), min(best.cpu_s, cpu / self.steps))


def loop_share(rounds: int, steps: int, size_px: int, slots: int) -> tuple[Best, Best]:
    """Bare calls of the step against `train_stage`, on the same batches, in turns."""
    loop = Loop(steps, size_px, slots)
    bare = looped = Best(float("inf"), float("inf"))
    for _ in range(rounds):
        bare = loop.best(loop.bare, bare)
        looped = loop.best(loop.in_the_loop, looped)
    return bare, looped


def main() -> None:
    keep_freed_memory()  # as a run does, and for the rivals too
    arguments = parser("The training step against Keras on JAX")
    arguments.add_argument("--backbone", default="inception_v3")
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--size_px", type=int, default=180)
    arguments.add_argument("--running_only", action="store_true", help="one BatchNorm mode only")
    arguments.add_argument("--torch", action="store_true", help="PyTorch too")
    arguments.add_argument("--parts", default="keras,dispatch,loop")
    args = arguments.parse_args()
    size_px = 75 if args.smoke else args.size_px
    parts = args.parts.split(",")
    lines: list[str] = []
    ratios: dict[str, float] = {}
    if {"keras", "torch"} & set(parts):
        rows, ratios = against_rivals(args, size_px, parts)
        header = ["", "wall", "CPU", "images/s", "XLA's count"]
        lines += [table(header, rows), ""]
        lines += [f"{name}: {value:.2f}" for name, value in ratios.items()]
    if "dispatch" in parts:
        made = training(args.backbone, classes=CLASSES, trainable="head")
        batch = made.put(batch_of([[1]], 1, 1, 75, CLASSES))
        leaves = len(jax.tree.leaves(made.state))
        dispatched_ms = dispatch_ms(made, batch, 3 if args.smoke else 50)
        lines += [
            f"Python dispatch: {dispatched_ms:.2f} ms a step, {args.backbone}, {leaves} leaves"
        ]
    if "loop" in parts:
        steps, slots = (3, 8) if args.smoke else (20, 64)
        bare, looped = loop_share(args.rounds, steps, size_px, slots)
        share = looped.cpu_s / bare.cpu_s - 1
        lines += [
            f"loop: {1000 * bare.cpu_s:.2f} ms of CPU a bare step (small_cnn, {slots} images of "
            f"{size_px} px), {1000 * looped.cpu_s:.2f} ms in the loop: {share:+.1%}; wall "
            f"{1000 * bare.wall_s:.2f} and {1000 * looped.wall_s:.2f} ms"
        ]
        ratios["bare step to loop, CPU"] = 1 / (1 + share)
    about = machine("jax", "keras", "torch")
    report(args, f"{about}; batch {args.batch}, float32", "\n".join(lines), ratios)
    assert np.isfinite(list(ratios.values())).all()


if __name__ == "__main__":
    main()
