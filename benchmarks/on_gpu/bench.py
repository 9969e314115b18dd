"""What the parts of gpu.py share: the sizes, the ceilings, the clock."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.parts import shaped
from benchmarks.parts.training import batch_of
from product_mil.data.plan import ShuffledPlan

CLASSES = 5270
CALLS = 5  # in a row, so that the device never waits for Python between them


class Bench:
    """The sizes to run with, the ceilings once measured, and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.smoke, self.budget_s = args.smoke, args.budget_s
        self.started = time.monotonic()
        self.size_px = 75 if args.smoke else 180
        self.batch = args.batch // 64 if args.smoke else args.batch
        self.products = 300 if args.smoke else 100_000
        self.backbones = ["small_cnn"] if args.smoke else args.backbones.split(",")
        self.matmul, self.copy = args.matmul, args.copy  # FLOPs and bytes a second
        self.directory = Path(args.directory)

    def left_s(self) -> float:
        """What is left of this part's time."""
        return self.budget_s - (time.monotonic() - self.started)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Time of a call, the best of as many rounds as half a second holds."""
        jax.block_until_ready(run())
        best, until, rounds = float("inf"), time.perf_counter() + 0.5, 0
        while rounds < (1 if self.smoke else 3) or (not self.smoke and time.perf_counter() < until):
            started = time.perf_counter()
            jax.block_until_ready([run() for _ in range(CALLS)])
            best, rounds = min(best, (time.perf_counter() - started) / CALLS), rounds + 1
        return best

    def roofline(self, flops: float, accessed_bytes: float, seconds: float) -> dict[str, Any]:
        floor_s = max(flops / self.matmul, accessed_bytes / self.copy)
        return {
            "gflop": flops / 1e9,
            "gbyte": accessed_bytes / 1e9,
            "gbyte_per_s": accessed_bytes / 1e9 / seconds,
            "mfu": flops / self.matmul / seconds,
            "of_roofline": floor_s / seconds,
        }

    def plan(self, num_images: np.ndarray, images: int) -> ShuffledPlan:
        return ShuffledPlan(num_images, shards=1, image_slots=images, seed=0)

    def drawn_batch(self, images: int) -> Any:
        """Random pixels in the slots of the first step over the drawn file's products."""
        counts = shaped.num_images(self.products)
        plan = self.plan(counts, images)
        own = counts[plan.positions(0)[0]].tolist()
        return batch_of([own], images, plan.product_slots, self.size_px, CLASSES)
