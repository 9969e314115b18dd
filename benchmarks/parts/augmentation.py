r"""What augmentation costs and brings: the tables of docs/guide/augmentation.md.

    python -m benchmarks.parts.augmentation speed [--backbones small_cnn,mobilenet_v2] [--repeats 7]
    python -m benchmarks.parts.augmentation gain --workdir DIR \
        --set TRAIN VALID CATEGORIES [--seeds 0,1,2] [--epochs 15] [--image_size_px 96] \
        [--variants none,flip,geometry,all] [--max_products 0]

`speed` times training steps without augmentation, with a reflection, with all changes of geometry,
and with colours and erasing too; and the changes alone, in one warp as they are made and in a warp
each. The cases are interleaved,
and the clock is CPU time of this process, which other jobs on the machine hardly disturb.

`gain` trains the joint head on a frozen backbone, as configs/joint.py:frozen, with and without, for
equally many steps, and prints top-1 of the validation products. Finished runs in --workdir are not
trained again.
"""

import argparse
import dataclasses
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import add_net, with_net
from benchmarks.parts.training import training
from product_mil.batch import PackedBatch, Slots
from product_mil.config import AugmentConfig, DataConfig, load_config
from product_mil.devices.runtime import configure_jax
from product_mil.runs.run import run
from product_mil.train.augment import Ranges, augment
from product_mil.train.log import RunLog

FROZEN = str(Path(__file__).resolve().parents[2] / "configs/joint.py") + ":frozen"
IMAGES, SIZE_PX, CLASSES = 32, 180, 81
GEOMETRY = AugmentConfig(
    flip=0.5, rotation_deg=15.0, shear_deg=8.0, translation=0.08, scale=0.15, crop=0.15
)
EVERYTHING = dataclasses.replace(GEOMETRY, colors=0.3, erasing=0.25)
VARIANTS = {
    "none": AugmentConfig(),
    "flip": AugmentConfig(flip=0.5),
    "geometry": GEOMETRY,
    "all": EVERYTHING,
}


def ranges_of(config: AugmentConfig) -> Ranges:
    return Ranges(**dataclasses.asdict(config))


def separately(images: jax.Array, key: jax.Array) -> jax.Array:
    """The same changes of geometry, each with a warp of its own."""
    for number, name in enumerate(Ranges._fields[:6]):
        one = Ranges(**{name: getattr(GEOMETRY, name)})
        images = augment(images, jax.random.fold_in(key, number), one)
    return images


def random_batch() -> PackedBatch:
    """Products of two images, in one shard."""
    rng = np.random.default_rng(0)
    products = IMAGES // 2
    slots = Slots(
        segment=np.repeat(np.arange(products, dtype=np.int32), 2)[None],
        position=np.tile(np.arange(2, dtype=np.int32), products)[None],
        label=rng.integers(0, CLASSES, (1, products)).astype(np.int32),
    )
    shape = (1, IMAGES, SIZE_PX, SIZE_PX, 3)
    return PackedBatch(rng.integers(0, 256, shape).astype(np.uint8), slots)


def step_of(backbone: str, ranges: Ranges) -> Callable[[], Any]:
    """A function that makes one training step of everything and waits for it."""
    made = training(
        backbone, classes=CLASSES, batch_statistics=False, pooling="mean", ranges=ranges
    )
    state, batch = made.state, made.put(random_batch())

    def call() -> None:
        nonlocal state
        state, loss = made.step(state, batch, made.key)
        loss.block_until_ready()

    return call


def speed(arguments: argparse.Namespace) -> None:
    images, key = jnp.asarray(random_batch().images), jax.random.key(0)
    # The key is an argument: as a constant the maps would be computed when compiling.
    fused = jax.jit(lambda images, key: augment(images, key, ranges_of(GEOMETRY)))
    everything = jax.jit(lambda images, key: augment(images, key, ranges_of(EVERYTHING)))
    apart = jax.jit(separately)
    mirrored = jax.jit(lambda images, key: augment(images, key, Ranges(flip=0.5)))
    cases: dict[tuple[str, str], Callable[[], Any]] = {
        ("changes alone", "flip"): lambda: mirrored(images, key).block_until_ready(),
        ("changes alone", "geometry in one warp"): lambda: fused(images, key).block_until_ready(),
        ("changes alone", "geometry in a warp each"): lambda: apart(
            images, key
        ).block_until_ready(),
        ("changes alone", "all"): lambda: everything(images, key).block_until_ready(),
    }
    for backbone in arguments.backbones.split(","):
        for name, changes in VARIANTS.items():
            cases[f"step of {backbone}", name] = step_of(backbone, ranges_of(changes))
    spent: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for call in cases.values():
        call()  # compiles
    for _ in range(arguments.repeats):
        for case, call in cases.items():
            before = time.process_time()
            call()
            spent[case].append((time.process_time() - before) * 1000)
    print(
        f"| {IMAGES} images of {SIZE_PX} px | augmentation | CPU ms | to none |\n|---|---|---|---|"
    )
    for (what, name), times in spent.items():
        none = spent.get((what, "none"))
        ratio = f"{np.median(times) / np.median(none):.3f}" if none else ""
        print(f"| {what} | {name} | {np.median(times):.0f} | {ratio} |")


def gain(arguments: argparse.Namespace) -> None:
    frozen = load_config(FROZEN)
    train, valid, categories = arguments.set
    lines = [
        "| augmentation | seeds | top-1 | standard error of seeds | nll |\n|---|---|---|---|---|"
    ]
    for name in arguments.variants.split(","):
        found = []
        for seed in map(int, arguments.seeds.split(",")):
            config = dataclasses.replace(
                frozen,
                seed=seed,
                data=DataConfig(
                    train=train,
                    valid=valid,
                    categories=categories,
                    max_products=arguments.max_products,
                    image_size_px=arguments.image_size_px,
                ),
                model=with_net(frozen.model, arguments),
                head=dataclasses.replace(
                    frozen.head, epochs=arguments.epochs, augment=VARIANTS[name]
                ),
            )
            workdir = arguments.workdir / f"{name}-{seed}"
            run(config, workdir)
            last = RunLog(workdir).metrics()[-1]
            found.append((last["valid/top1"], last["valid/nll"]))
        top1, nll = np.array(found).T
        error = top1.std(ddof=1) / len(top1) ** 0.5 if len(top1) > 1 else float("nan")
        lines.append(
            f"| {name} | {len(top1)} | {top1.mean():.3f} | {error:.3f} | {nll.mean():.3f} |"
        )
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("speed")
    command.add_argument("--backbones", default="small_cnn,mobilenet_v2")
    command.add_argument("--repeats", type=int, default=7)
    command = commands.add_parser("gain")
    add_net(command)
    command.add_argument("--workdir", type=Path, required=True)
    command.add_argument("--set", nargs=3, required=True, metavar=("TRAIN", "VALID", "CATEGORIES"))
    command.add_argument("--seeds", default="0,1,2")
    command.add_argument("--variants", default="none,flip,geometry,all")
    command.add_argument("--max_products", type=int, default=0, help="of TRAIN; 0: all")
    command.add_argument("--epochs", type=int, default=15)
    command.add_argument("--image_size_px", type=int, default=96)
    arguments = parser.parse_args()
    configure_jax()
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}\n")
    speed(arguments) if arguments.command == "speed" else gain(arguments)


if __name__ == "__main__":
    main()
