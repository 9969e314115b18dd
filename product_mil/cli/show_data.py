r"""Look at products: a contact sheet of products with all their images.

    product-mil show --data products.bson --output sheet.png
    product-mil show --data products.bson --output sheet.png --which bad
    product-mil show --data products.bson --output sheet.png --augmented 4 \
        --config joint:laptop --augment rotation_deg=20

A coloured frame marks an image that other products (or this one) show too; a red box stands for an
image that cannot be read, with the reason. `--augmented 4` adds four rows to each product: its
images as training would see them in four steps.
"""

import argparse

from product_mil.cli.console import command
from product_mil.cli.flags import add_data_flag, add_output_flag
from product_mil.cli.parser import CommandParser
from product_mil.config import (
    AugmentConfig,
    Config,
    StageConfig,
    load_config,
    override,
    problems,
    refuse,
)
from product_mil.data.sheet import SHEET
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path
from product_mil.inference.outputs import refuse_data
from product_mil.runs.sheet import make_sheet
from product_mil.sources.ids import ids_from_text

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
    parser = CommandParser("show", __doc__)
    add_data_flag(parser, required=True)
    add_output_flag(parser, "FILE", ".png or .jpg to write")
    parser.add_argument(
        "--categories", type=user_path, metavar="FILE", help="category_names.csv, for the names"
    )
    parser.add_argument("--products", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument(
        "--which",
        choices=("random", "first", "bad", "identical"),
        default="random",
        help="bad: with faults or unreadable images; identical: sharing an image (default: random)",
    )
    parser.add_argument(
        "--ids",
        help="these products, ids with commas; instead of --which (--ids=-1,5 if one is negative)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is random")
    parser.add_argument(
        "--image_size_px", type=int, default=180, metavar="N", help="as training reads them"
    )
    parser.add_argument("--augmented", type=int, default=0, metavar="N", help="rows of variants")
    parser.add_argument("--config", help="whose config.finetune.augment the variants have")
    parser.add_argument(
        "--augment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as config.finetune.augment",
    )
    args = parser.parse_args(argv)
    refuse_data([args.output], args.data)
    check_output(args.output, SHEET)
    for name, least, most in LIMITS:
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name}={getattr(args, name)}: must be from {least} to {most}")
    sheet = make_sheet(
        args.data,
        args.output,
        categories_path=args.categories,
        which=args.which,
        num_products=args.products,
        ids=ids_from_text(args.ids.split(",")).tolist() if args.ids else (),
        seed=args.seed,
        image_size_px=args.image_size_px,
        augmented=args.augmented,
        ranges=_ranges(args),
    )
    if sheet is None:
        what = "has a fault" if args.which == "bad" else "shares an image"
        print(f"{args.data}: no product {what}, so nothing was drawn")
        return
    print(
        f"{args.output}: {sheet.num_shown} of {sheet.num_products} products "
        f"({'by id' if args.ids else args.which}), {sheet.num_images} images, "
        f"{sheet.num_unreadable} of them unreadable; {sheet.num_faults} faults in the records"
        + f"; {len(sheet.left_out)} rows of the category file left out"
        * bool(sheet.left_out)
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
