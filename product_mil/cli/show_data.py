r"""Look at BSON files: a contact sheet of products with all their images.

    python tools/show_data.py --data products.bson --output sheet.png [--categories names.csv]
    python tools/show_data.py --data products.bson --output sheet.png --which bad
    python tools/show_data.py --data products.bson --output sheet.png --augmented 4 \
        [--config configs/joint.py:laptop] [--augment rotation_deg=20]

A coloured frame marks an image that other products (or this one) show too; a red box stands for an
image that cannot be read, with the reason. `--augmented 4` adds four rows to each product: its
images as training would see them in four steps.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from product_mil.cli.console import command
from product_mil.config import (
    AugmentConfig,
    Config,
    StageConfig,
    load_config,
    override,
    refuse,
)
from product_mil.data.sheet import SHEET, Book, Shown, draw, save
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path
from product_mil.runs.limits import problems
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.categories import read_categories

# Of the numbers among the options.
LIMITS = (
    ("products", 1, 2000),
    ("augmented", 0, 50),
    ("seed", 0, 1 << 31),
    ("image_size_px", 16, 2048),
)
# Shown where neither --config nor --augment says anything.
DEMONSTRATION = AugmentConfig(
    flip=0.5,
    rotation_deg=15.0,
    shear_deg=8.0,
    translation=0.08,
    scale=0.15,
    crop=0.15,
    colors=0.3,
    erasing=0.25,
)


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, choose products, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="BSON file, glob, or several with commas")
    parser.add_argument("--output", required=True, type=user_path, help=".png or .jpg to write")
    parser.add_argument("--categories", type=user_path, help="category_names.csv, for the names")
    parser.add_argument("--products", type=int, default=20, help="how many (default 20)")
    parser.add_argument(
        "--which",
        choices=("random", "first", "bad", "identical"),
        default="random",
        help="bad: with faults or unreadable images; identical: sharing an image (default random)",
    )
    parser.add_argument(
        "--ids",
        help="these products, ids with commas; instead of --which (--ids=-1,5 if one is negative)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --which random, and --augmented")
    parser.add_argument("--image_size_px", type=int, default=180, help="as training reads them")
    parser.add_argument("--augmented", type=int, default=0, metavar="ROWS", help="rows of variants")
    parser.add_argument("--config", help="whose config.finetune.augment the variants have")
    parser.add_argument(
        "--augment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as config.finetune.augment",
    )
    args = parser.parse_args(argv)
    print(make_sheet(args))


def make_sheet(args: argparse.Namespace) -> str:
    """Write the sheet; a line that says what is on it.

    Raises:
        UserError: files that cannot be read or written, or wrong options.
    """
    check_output(args.output, SHEET)
    for name, least, most in LIMITS:
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name}={getattr(args, name)}: must be from {least} to {most}")
    ranges = _ranges(args)
    skipped: list[str] = []
    categories = read_categories(args.categories, skipped) if args.categories else None
    catalogue = open_catalogue(args.data)
    book = Book(catalogue, categories, args.image_size_px)
    rows = _chosen(book, args)
    if not len(rows):
        raise UserError(f"{args.data}: no product is {args.which}; try another --which")
    shown = [book.show(int(row)) for row in rows]
    if args.augmented:
        for product in shown:
            product.variants = _variants(product, args.augmented, ranges, args.seed)
    sheet = draw(shown)
    try:
        save(sheet, args.output)
    except OSError as error:
        raise UserError(f"cannot write {args.output}: {error}") from error
    bad = sum(isinstance(image, str) for product in shown for image in product.images)
    return (
        f"{args.output}: {len(shown)} of {catalogue.num_products} products "
        f"({'by id' if args.ids else args.which}), "
        f"{sum(len(product.images) for product in shown)} images, {bad} of them unreadable; "
        f"{len(catalogue.faults)} faults in the records"
        + f"; {len(skipped)} rows of the category file left out"
        * bool(skipped)
    )


def _ranges(args: argparse.Namespace) -> AugmentConfig:
    ranges = AugmentConfig() if args.augment else DEMONSTRATION
    config = (
        load_config(args.config)
        if args.config
        else Config(finetune=StageConfig(epochs=1, augment=ranges))
    )
    pairs = [text.partition("=") for text in args.augment]
    assignments = [(f"finetune.augment.{name}", value) for name, _, value in pairs]
    config, errors = override(config, assignments)
    refuse(errors + [line for line in problems(config) if "config.finetune.augment" in line])
    return config.finetune.augment


def _chosen(book: Book, args: argparse.Namespace) -> np.ndarray:
    catalogue = book.catalogue
    if args.ids:
        try:
            wanted = [int(text) for text in args.ids.split(",")]
        except ValueError:
            raise UserError(f"--ids {args.ids}: give whole numbers with commas") from None
        missing = sorted(set(wanted) - set(np.asarray(catalogue.product_id).tolist()))
        if missing:
            raise UserError(f"--ids: {args.data} has no product {missing[0]}")
        return np.flatnonzero(np.isin(catalogue.product_id, wanted))
    rows = np.arange(catalogue.num_products)
    if args.which == "random":
        drawn = np.random.default_rng(args.seed).permutation(rows)[: args.products]
        return np.sort(drawn)
    test = {"first": lambda _: True, "bad": book.is_bad, "identical": book.shares_images}[
        args.which
    ]

    def matching() -> Iterator[int]:
        found = 0
        for row in rows.tolist():
            if found == args.products:
                return
            if test(row):
                found += 1
                yield row

    return np.array(list(matching()), np.int64)


def _variants(
    product: Shown, steps: int, ranges: AugmentConfig, seed: int
) -> list[list[np.ndarray | None]]:
    """The product's images as they would be in slots 0, 1, ... of the first steps of a run."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from product_mil.train.augment import Ranges, augment

    readable = [image for image in product.images if not isinstance(image, str)]
    rows: list[list[np.ndarray | None]] = []
    for step in range(steps if readable else 0):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), 1 << 20)
        changed: Any = augment(
            jnp.asarray(np.stack(readable)[None]), key, Ranges(**dataclasses.asdict(ranges))
        )
        pixels = iter(np.clip(np.rint(np.asarray(changed[0], np.float32)), 0, 255).astype(np.uint8))
        rows.append([None if isinstance(image, str) else next(pixels) for image in product.images])
    return rows
