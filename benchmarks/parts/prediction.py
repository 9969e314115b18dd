"""Prediction against Keras' `predict`, and memory as the data grows.

    python -m benchmarks.parts.prediction [--backbone mobilenet_v2] [--images 96]

needs the extra `test` (Keras). Ours reads and decodes a drawn BSON file, packs, predicts with the
joint head and fetches blocks; Keras' `predict` on JAX gets the same number of images decoded and in
memory, the same backbone and a dense layer. Memory: peak of a process that predicts the file, then
one four times as long.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts import shaped
from benchmarks.parts.training import Training, training
from product_mil.data.loader import PixelSource, batches
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.devices.runtime import keep_freed_memory
from product_mil.inference.stream import predict_products
from product_mil.sources.bson.index import open_catalogue

CLASSES = 5270


def data_of(path: Path) -> Products:
    catalogue = open_catalogue(path)
    n = catalogue.num_products
    return Products(catalogue, np.arange(n), np.full(n, -1, np.int32), 4)


def predict(made: Training, products: Products, size_px: int, image_slots: int) -> int:
    """Images predicted."""
    plan = SequentialPlan(products.num_images, shards=1, image_slots=image_slots)
    source = PixelSource(products, plan, image_size_px=size_px)
    blocks = predict_products(products, batches(source), made.predict, made.mesh)
    return sum(len(block.image_index) for block, _ in blocks)


def keras_predict(backbone: str, size_px: int, images: int, batch: int) -> Any:
    import keras

    from benchmarks.parts.depthwise import keras_net

    net = keras_net(backbone, size_px)
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)
    inputs = keras.Input((size_px, size_px, 3))
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(net(scaled(inputs)))
    model = keras.Model(inputs, outputs)
    pixels = np.random.default_rng(0).integers(0, 256, (images, size_px, size_px, 3), np.uint8)
    return lambda: model.predict(pixels, batch_size=batch, verbose=0)  # pyright: ignore[reportArgumentType]


def memory_bytes(path: Path) -> int:
    command = [sys.executable, "-m", "benchmarks.parts.prediction", "--memory_of", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    keep_freed_memory()  # as a run does, and for the rivals too
    arguments = parser("Prediction against Keras' predict")
    arguments.add_argument("--backbone", default="mobilenet_v2")
    arguments.add_argument("--images", type=int, default=96, help="about as many")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--size_px", type=int, default=180)
    arguments.add_argument("--memory_of", type=Path, help="only predict this file; its peak memory")
    args = arguments.parse_args()
    if args.memory_of:
        predict(training("small_cnn", classes=100), data_of(args.memory_of), 180, 64)
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
        return
    size_px = 75 if args.smoke else args.size_px
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        shaped.write(root / "data.bson", round(args.images / 1.75), different=64)
        products = data_of(root / "data.bson")
        images = int(products.num_images.sum())
        made = training(args.backbone, classes=CLASSES)
        best = in_turns(
            {
                "ours, from the file": lambda: predict(made, products, size_px, args.batch),
                "Keras' predict, from memory": keras_predict(
                    args.backbone, size_px, images, args.batch
                ),
            },
            args.rounds,
        )
        few = 200 if args.smoke else 1_000
        shaped.write(root / "short.bson", few)
        shaped.write(root / "long.bson", 4 * few)
        short, long = memory_bytes(root / "short.bson"), memory_bytes(root / "long.bson")
    rows = [
        [name, f"{b.wall_s:.2f} s", f"{b.cpu_s:.2f} s", f"{images / b.wall_s:.1f}"]
        for name, b in best.items()
    ]
    ours, theirs = best.values()
    text = table(["", "wall", "CPU", "images/s"], rows)
    text += (
        f"\n\n{theirs.wall_s / ours.wall_s:.2f} times Keras by wall time, "
        f"{theirs.cpu_s / ours.cpu_s:.2f} by CPU time\npeak memory: {short / 1e6:.0f} MB for "
        f"{few} products, {long / 1e6:.0f} MB for {4 * few}"
    )
    about = f"{machine('jax', 'keras')}; {args.backbone}, {images} images of {size_px} px"
    ratios = {f"{args.backbone}, times Keras, CPU": theirs.cpu_s / ours.cpu_s}
    report(args, f"{about}, batches of {args.batch}", text, ratios)


if __name__ == "__main__":
    main()
