"""Counts of what a catalogue holds."""

from typing import Any

import numpy as np

from product_mil.data.duplicates import (
    group_images,
    hashes_of,
    product_of_images,
    with_bytes,
)
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.ids import has_id

_MAX_SHOWN_FAULTS = 10


def summarise(catalogue: Catalogue) -> dict[str, Any]:
    """Counts of products, images, categories and faults, as plain JSON values."""
    sizes, products = np.unique(catalogue.num_images, return_counts=True)
    category_id = catalogue.category_id[has_id(catalogue.category_id)]
    whole = with_bytes(catalogue)
    groups = group_images(hashes_of(catalogue)[whole], product_of_images(catalogue)[whole])
    return {
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
        "distinct_images": len(groups.start),
        "identical_images": len(groups.image_row) - len(groups.start),
        "images_without_bytes": catalogue.num_images_total - len(groups.image_row),
        "images_in_most_products": int(groups.num_products.max(initial=0)),
    }
