"""How long a comparison of as many products as Cdiscount's test set takes, and in what memory.

python -m benchmarks.parts.compare --workdir DIR [--products 1768182] [--classes 5270]

Two Parquet prediction files are drawn (no model: the answers are random, right as often as given)
and compared by tools/compare.py in a process of its own, whose peak memory is measured.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.top_classes import ParquetWriter
from product_mil.sources.categories import Categories

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 65_536
SHARES = np.array([0.618, 0.160, 0.077, 0.145])  # of products with 1 to 4 images on Cdiscount


def draw(path: Path, products: int, classes: int, accuracy: float, seed: int) -> None:
    ids = np.arange(classes, dtype=np.int64) * 3 + 1_000_000_000
    names = [[f"level 1 {i % 49}", f"level 2 {i % 483}", f"class {i}"] for i in range(classes)]
    categories = Categories.from_json(json.dumps({"ids": ids.tolist(), "names": names}))
    writer = ParquetWriter(path, categories.ids, categories_json=categories.to_json(), run={})
    truth, own = np.random.default_rng(0), np.random.default_rng(seed)
    for first in range(0, products, BLOCK):
        n = min(BLOCK, products - first)
        label = truth.integers(0, classes, n)
        num_images = truth.choice([1, 2, 3, 4], n, p=SHARES).astype(np.int32)
        ease = truth.random(n)
        right = 0.7 * ease + 0.3 * own.random(n) < accuracy
        top = (label[:, None] + np.arange(10) + ~right[:, None]).astype(np.int32) % classes
        probability = np.sort(own.dirichlet(np.full(11, 0.4), n)[:, :10], 1)[:, ::-1]
        m = int(num_images.sum())
        index = np.arange(m) - np.repeat(np.cumsum(num_images) - num_images, num_images)
        writer.write(
            PredictionBlock(
                product_id=np.arange(first, first + n),
                category_id=ids[label],
                has_category=np.ones(n, bool),
                log_prob_true=np.log(np.where(right, probability[:, 0], 0.01)).astype(np.float32),
                num_images=num_images,
                num_readable_images=num_images,
                top_class=top,
                top_probability=probability.astype(np.float32),
                image_index=index.astype(np.int32),
                attention=(1 / np.repeat(num_images, num_images)).astype(np.float32),
                image_top_class=own.integers(0, classes, m).astype(np.int32),
                probabilities=None,
            )
        )
    writer.close()
    for draft in writer.drafts:
        draft.publish()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--products", type=int, default=1_768_182)
    parser.add_argument("--classes", type=int, default=5_270)
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    files = []
    for name, accuracy, seed in (("joint", 0.60, 1), ("averaged", 0.588, 2)):
        path = args.workdir / f"{name}-{args.products}.parquet"
        if not path.exists():
            draw(path, args.products, args.classes, accuracy, seed)
        files.append(f"{name}={path}")
    command = [sys.executable, str(ROOT / "tools/compare.py"), "--predictions", *files]
    started = time.monotonic()
    subprocess.run([*command, "--output", str(args.workdir / "comparison")], check=True)
    spent_s = time.monotonic() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    page_bytes = (args.workdir / "comparison" / "index.html").stat().st_size
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores: {args.products} products "
        f"of {args.classes} categories compared in {spent_s:.0f} s and {peak_bytes / 1e9:.2f} GB; "
        f"page {page_bytes / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
