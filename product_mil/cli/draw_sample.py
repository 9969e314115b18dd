"""Draw a catalogue like the embedded sample, of other products: for tests and demonstrations.

    python tools/draw_sample.py --output drawn [--seed 1] [--products 1000]

writes products.bson and category_names.csv. The categories are those of the embedded sample, and
every image is new: a run on the sample (seed 0) has seen none of them. No product id is one of the
sample's either.
"""

import argparse
import os

from product_mil.cli.console import command
from product_mil.errors import UserError
from product_mil.files.outputs import Kind, check_output, user_path
from product_mil.sources.sample.draw import draw_catalogue

DRAWN = Kind("a drawn catalogue", (), lambda _: False)


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, draw, write the directory's files whole."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=user_path, required=True, help="new directory")
    parser.add_argument("--seed", type=int, default=1, help="from 0; default 1")
    parser.add_argument("--products", type=int, default=1000, help="default 1000")
    args = parser.parse_args(argv)
    for name, least, most in (("seed", 0, 1 << 31), ("products", 1, 1_000_000)):
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name}={getattr(args, name)}: must be from {least} to {most}")
    if os.path.exists(args.output / "products.bson"):  # noqa: PTH110, it raises at long names
        raise UserError(f"{args.output} has products already: use them, or name a new directory")
    check_output(args.output, DRAWN)
    draw_catalogue(args.output, seed=args.seed, num_products=args.products)
    print(f"{args.output / 'products.bson'}: {args.products} products of seed {args.seed}")


if __name__ == "__main__":
    main()
