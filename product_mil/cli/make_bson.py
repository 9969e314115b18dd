"""Turn products from anywhere into one BSON file, which is read fastest and can be moved.

    product-mil make-bson --data photos/ --output train.bson
    product-mil make-bson --data mongodb://localhost/shop.products --output frozen.bson

--data is whatever training takes: a folder of images, a CSV or Parquet table, a MongoDB collection,
a dump as it comes. Ids stay as they are. An image that cannot be read keeps its place, without
bytes.
"""

from product_mil.cli.console import command
from product_mil.cli.flags import add_data_flag, add_output_flag
from product_mil.cli.parser import CommandParser
from product_mil.files.outputs import check_output
from product_mil.inference.outputs import refuse_data
from product_mil.sources.opening import open_catalogue
from product_mil.sources.write_bson import MADE_BSON, write_bson


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, open the data, write them."""
    parser = CommandParser("make-bson", __doc__)
    add_data_flag(parser, required=True)
    add_output_flag(parser, "FILE", "a new .bson file")
    args = parser.parse_args(argv)
    refuse_data([args.output], args.data)
    check_output(args.output, MADE_BSON)
    written = write_bson(open_catalogue(args.data), args.output)
    print(
        f"{args.output}: {written.num_products} products, {written.num_images} images, "
        f"{written.num_bytes / 1e6:,.1f} MB"
    )
    if written.unread:
        print(f"{len(written.unread)} images could not be read, such as {written.unread[0]}")
