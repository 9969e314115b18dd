"""How full the image slots are, and what packing saves over padding every product to 4 images.

    python -m benchmarks.parts.packing [--backbone mobilenet_v2] [--rounds 5]

Slots filled: the training plan of `--products` products with Cdiscount's shares of 1 to 4 images,
at 256 image slots a shard, counted over a whole epoch. Products a second: one training step, of the
same net and the same number of image slots, on a packed batch of that plan and on a batch in which
every product has 4 slots.
"""

import time

import jax
import numpy as np

from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts import shaped
from benchmarks.parts.training import batch_of, training
from product_mil.data.plan import ShuffledPlan
from product_mil.devices.runtime import keep_freed_memory

MAX_IMAGES = 4
CLASSES = 5270


def main() -> None:
    keep_freed_memory()  # as a run does, and for the rivals too
    arguments = parser("Packing against padding")
    arguments.add_argument("--products", type=int, default=1_000_000)
    arguments.add_argument("--backbone", default="mobilenet_v2")
    arguments.add_argument("--image_slots", type=int, default=64, help="of the step")
    arguments.add_argument("--size_px", type=int, default=96, help="of the step")
    args = arguments.parse_args()
    counts = shaped.num_images(20_000 if args.smoke else args.products)
    started = time.perf_counter()
    plan = ShuffledPlan(counts, shards=4, image_slots=256, seed=0)
    filled = counts.sum() / (plan.num_steps * 4 * 256)
    planned_s = time.perf_counter() - started

    slots = 16 if args.smoke else args.image_slots
    size_px = 75 if args.smoke else args.size_px
    small = ShuffledPlan(counts, shards=1, image_slots=slots, seed=0)
    packed = counts[small.positions(0)[0]].tolist()
    padded = counts[: slots // MAX_IMAGES].tolist()
    made = training("small_cnn" if args.smoke else args.backbone, classes=CLASSES)
    batches = {
        "packed": made.put(batch_of([packed], slots, small.product_slots, size_px, CLASSES)),
        "padded to 4": made.put(batch_of([padded], slots, slots // MAX_IMAGES, size_px, CLASSES)),
    }
    states = {name: made.fresh() for name in batches}

    def step(name: str) -> None:
        states[name], loss = made.step(states[name], batches[name], made.key)
        jax.block_until_ready(loss)

    best = in_turns({name: (lambda name=name: step(name)) for name in batches}, args.rounds)
    products = {"packed": len(packed), "padded to 4": len(padded)}
    rows = [
        [
            name,
            str(products[name]),
            f"{sum(packed if name == 'packed' else padded) / slots:.3f}",
            f"{b.wall_s:.3f} s",
            f"{b.cpu_s:.3f} s",
            f"{products[name] / b.wall_s:.1f}",
        ]
        for name, b in best.items()
    ]
    header = ["step", "products", "slots filled", "wall", "CPU", "products/s"]
    rate = {name: products[name] / b.cpu_s for name, b in best.items()}
    ratio = rate["packed"] / rate["padded to 4"]
    text = (
        f"{filled:.4f} of image slots filled over an epoch of {len(counts):,} products at 256 a "
        f"shard (planned in {planned_s:.2f} s); padding to 4 fills {np.mean(counts) / 4:.4f}\n\n"
        + table(header, rows)
        + f"\n\n{ratio:.2f} times the products/s of the padded form, by CPU time"
    )
    about = machine("jax")
    ratios = {"slots filled": float(filled), "products/s, packed to padded, CPU": ratio}
    net = f"{args.backbone}, {slots} image slots of {size_px} px"
    report(args, f"{about}; {net}", text, ratios)


if __name__ == "__main__":
    main()
