"""Index products and print what they are.

    product-mil index train.bson 'more/*.bson'
    product-mil index photos/

A second call is fast: the index is kept, beside each BSON file or in the user's cache.
"""

import json
from typing import Any

from product_mil.cli.console import command
from product_mil.cli.parser import CommandParser
from product_mil.data.summary import summarise
from product_mil.sources.catalogue import Place
from product_mil.sources.opening import open_catalogue
from product_mil.text import table


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, index, print."""
    parser = CommandParser("index", __doc__)
    parser.add_argument("files", nargs="+", metavar="DATA", help="BSON file, folder, table, glob")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    summary = summarise(open_catalogue(args.files))
    print(json.dumps(summary, indent=2) if args.json else as_table(summary))


def as_table(summary: dict[str, Any]) -> str:
    """The summary for people."""
    products = summary["products"]
    rows = [("files", ", ".join(summary["files"])), ("products", f"{products:,}")]
    rows += [
        (f"  with {size} image{'s' * (size != 1)}", f"{count:,} ({count / products:.1%})")
        for size, count in summary["products_by_num_images"].items()
    ]
    rows += [("  without category", f"{summary['products_without_category']:,}")]
    rows += [("categories", f"{summary['categories']:,}")]
    rows += [("images", f"{summary['images']:,} ({summary['image_bytes'] / 1e6:,.1f} MB)")]
    rows += [
        ("  distinct", f"{summary['distinct_images']:,}"),
        ("  identical to another", f"{summary['identical_images']:,}"),
        ("  in most products", f"one in {summary['images_in_most_products']:,}"),
    ]
    if summary["images_without_bytes"]:
        rows += [("  without bytes", f"{summary['images_without_bytes']:,}")]
    rows += [("bad records", f"{summary['bad_records']:,}")]
    rows += [("unread bytes", f"{summary['unread_bytes']:,}")]
    rows += [(reason, f"{count:,}") for reason, count in summary["faults"].items()]
    lines = table(rows, "<<")
    for fault in summary["first_faults"]:
        product = "" if fault["product_id"] is None else f", product {fault['product_id']}"
        place = Place(fault["file"], fault["offset_bytes"])
        lines.append(f"! {place}{product}: {fault['reason']}")
    return "\n".join(lines)
