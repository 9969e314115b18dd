"""Draw a catalogue like the embedded sample, of other products: for tests and demonstrations.

    product-mil draw-sample --output drawn

Writes products.bson and category_names.csv. The categories are those of the embedded sample, and
every image is new: a run on the sample (seed 0) has seen none of them. No product id is one of the
sample's either.
"""

import os

from product_mil.cli.console import command
from product_mil.cli.flags import add_output_flag
from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError
from product_mil.files.outputs import Kind, check_output
from product_mil.sources.sample.draw import draw_catalogue

DRAWN = Kind("a drawn catalogue", (), lambda _: False)


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, draw, write the directory's files whole."""
    parser = CommandParser("draw-sample", __doc__)
    add_output_flag(parser, "DIR", "a new directory")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="from 0 (default: 1)")
    parser.add_argument("--products", type=int, default=1000, metavar="N", help="default: 1000")
    args = parser.parse_args(argv)
    for name, least, most in (("seed", 0, 1 << 31), ("products", 1, 1_000_000)):
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name}={getattr(args, name)}: must be from {least} to {most}")
    if os.path.exists(args.output / "products.bson"):  # noqa: PTH110, it raises at long names
        raise UserError(f"{args.output} has products already: use them, or name a new directory")
    check_output(args.output, DRAWN)
    draw_catalogue(args.output, seed=args.seed, num_products=args.products)
    print(f"{args.output / 'products.bson'}: {args.products} products of seed {args.seed}")
