"""Index BSON files and print what they hold.

    python tools/index_bson.py train.bson 'more/*.bson' [--json] [--no_hash]

A second call is instant: the index lies beside each file, or in the user's cache.
"""

import argparse
import json
from typing import Any

import numpy as np

from product_mil.cli.console import command
from product_mil.data.duplicates import (
    group_images,
    hashes_of,
    product_of_images,
    with_bytes,
)
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.catalogue import NO_CATEGORY, Catalogue
from product_mil.text import table

_MAX_SHOWN_FAULTS = 10


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, index, print."""
    parser = argparse.ArgumentParser(description="Index BSON files and print what they hold.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="BSON file or glob")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no_hash", action="store_true", help="do not hash the images")
    args = parser.parse_args(argv)
    summary = summarise(open_catalogue(args.files, hash_images=not args.no_hash))
    print(json.dumps(summary, indent=2) if args.json else as_table(summary))


def summarise(catalogue: Catalogue) -> dict[str, Any]:
    """Count what the catalogue holds; the values are plain JSON."""
    sizes, products = np.unique(catalogue.num_images, return_counts=True)
    category_id = catalogue.category_id[catalogue.category_id != NO_CATEGORY]
    summary: dict[str, Any] = {
        "files": [str(path) for path in catalogue.paths],
        "fingerprint": catalogue.fingerprint,
        "products": catalogue.num_products,
        "images": catalogue.num_images_total,
        "image_bytes": int(catalogue.image_length_bytes.sum(dtype=np.int64)),
        "products_by_num_images": dict(zip(sizes.tolist(), products.tolist(), strict=True)),
        "categories": len(np.unique(category_id)),
        "products_without_category": catalogue.num_products - len(category_id),
        "bad_records": catalogue.num_bad_records,
        "unread_bytes": catalogue.unread_bytes,
        "faults": catalogue.fault_counts,
        "first_faults": [
            {
                "file": str(path),
                "offset_bytes": fault.offset_bytes,
                "product_id": fault.product_id,
                "reason": fault.reason,
            }
            for path, fault in catalogue.faults[:_MAX_SHOWN_FAULTS]
        ],
    }
    if catalogue.image_hash is not None:
        whole = with_bytes(catalogue)
        groups = group_images(hashes_of(catalogue)[whole], product_of_images(catalogue)[whole])
        summary["distinct_images"] = len(groups.start)
        summary["identical_images"] = len(groups.image_row) - len(groups.start)
        summary["images_in_most_products"] = int(groups.num_products.max(initial=0))
    return summary


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
    if "distinct_images" in summary:
        rows += [
            ("  distinct", f"{summary['distinct_images']:,}"),
            ("  identical to another", f"{summary['identical_images']:,}"),
            ("  in most products", f"one in {summary['images_in_most_products']:,}"),
        ]
    rows += [("bad records", f"{summary['bad_records']:,}")]
    rows += [("unread bytes", f"{summary['unread_bytes']:,}")]
    rows += [(reason, f"{count:,}") for reason, count in summary["faults"].items()]
    lines = table(rows, "<<")
    for fault in summary["first_faults"]:
        product = "" if fault["product_id"] is None else f", product {fault['product_id']}"
        where = f"{fault['file']}, byte {fault['offset_bytes']}{product}"
        lines.append(f"! {where}: {fault['reason']}")
    return "\n".join(lines)
