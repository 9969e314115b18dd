"""Messages for data that cannot be used for training or evaluation, each in one line."""

import numpy as np

from product_mil.config import STAGES, Config
from product_mil.data.faults import first_fault
from product_mil.data.products import Products
from product_mil.errors import UserError
from product_mil.sources.catalogue import NO_PICTURE, OTHER_CATEGORY, Catalogue
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Ids, has_id

MAX_SHOWN_CATEGORIES = 5
_NO_IMAGES = ("no field imgs", "imgs is not an array", "imgs is empty", NO_PICTURE)


def refuse_other_categories(catalogue: Catalogue) -> None:
    """Raise `UserError` if no product has a category because category ids are of other types."""
    count = catalogue.fault_counts.get(OTHER_CATEGORY, 0)
    if count and not _any_category(catalogue):
        raise UserError(
            f"{first_fault(catalogue, OTHER_CATEGORY)}; a category id is a whole number or text, "
            f"and those of {count} products are not: give each category a number or a name"
        )


def refuse_level_losses(config: Config, categories: Categories) -> None:
    """Raise `UserError` if a loss has a weight at a level without groups of categories."""
    depth = categories.depth
    for stage in STAGES:
        for level, weight in enumerate(getattr(config, stage).level_losses, 1):
            if weight and level >= depth:
                levels = "1 level" if depth == 1 else f"{depth} levels"
                raise UserError(
                    f"config.{stage}.level{level}_loss={weight:g}: the category tree has {levels}, "
                    "and the last one is the category itself, which has its own loss"
                )


def refuse_unlabelled(spec: str, catalogue: Catalogue, purpose: str = "training") -> None:
    """Raise `UserError` if no product has a category; the message says why."""
    refuse_other_categories(catalogue)
    if not _any_category(catalogue):
        how = ""
        if any(path.is_dir() for path in catalogue.paths):
            how = ": put products into folders of categories, or a labels.csv into the folder"
        raise UserError(
            f"{spec}: no product has a category_id; {purpose} needs labelled products{how}"
        )


def _any_category(catalogue: Catalogue) -> bool:
    return bool(has_id(catalogue.category_id).any())


def no_training_product(spec: str, products: Products, categories_path: str) -> str:
    """The reason why no training product has both an image and a known category."""
    catalogue, count = products.catalogue, len(products)
    with_image, known = products.num_images > 0, products.labels >= 0
    if not has_images(products):
        kinds = [kind for kind in _NO_IMAGES if kind in catalogue.fault_counts]
        first = f" ({first_fault(catalogue, kinds[0])})" if kinds else ""
        return f"{spec}: none of {count} training products has an image{first}"
    if not known.any():
        return f"{spec}: none of {count} training products {_of_others(products, categories_path)}"
    return (
        f"{spec}: of {count} training products, {known.sum()} have a category of "
        f"{categories_path or 'its own'} and {with_image.sum()} an image, but none has both"
    )


def has_images(products: Products) -> bool:
    """Whether any product has an image of at least one byte, which may still be unreadable."""
    of_bytes = np.asarray(products.catalogue.image_length_bytes) > 0
    return bool((products.num_images > 0).any() and of_bytes.any())


def no_validation_product(spec: str, products: Products, categories_path: str) -> str:
    """The reason why no validation product can be scored."""
    refuse_unlabelled(spec, products.catalogue, "validation")
    return f"{spec}: none of {len(products)} products {_of_others(products, categories_path)}"


def no_split(spec: str, products: Products, valid_fraction: float) -> str:
    """The reason why none of `products`, which are all, can be set aside for validation."""
    labels = products.labels[products.labels >= 0]
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if (counts == 1).all():
        each = f"each of its {len(counts)} categories has" if len(counts) > 1 else "there is"
        why = f"{each} one product only"
    elif round(valid_fraction * len(products)) == 0:
        why = f"config.data.valid_fraction={valid_fraction:g} of {len(products)} products is none"
    else:
        why = (
            "products that share images stay on one side, and each category keeps one of them, "
            "which leaves none to move"
        )
    return (
        f"{spec}: no product can be set aside for validation: {why}; give more products a "
        "category, or name labelled products in config.data.valid"
    )


def one_category(products: Products, categories: Categories) -> list[str]:
    """A note if all training products are of one category; otherwise an empty list."""
    classes = np.unique(products.labels)
    if len(classes) > 1:
        return []
    return [
        f"all {len(products)} training products are of one category, "
        f"{categories.ids[classes[0]]}: there is nothing to distinguish, and every score says 1"
    ]


def most_of(ids: Ids[np.ndarray, " N"]) -> tuple[int, int, str]:
    """The number of categories, the number of products, and words on the largest categories."""
    distinct, counts = np.unique(ids[has_id(ids)], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MAX_SHOWN_CATEGORIES]
    shown = ", ".join(f"{distinct[i]} of {counts[i]} products" for i in most)
    return len(distinct), int(counts.sum()), shown + ", ..." * (len(distinct) > len(most))


def _of_others(products: Products, categories_path: str) -> str:
    category_id = np.asarray(products.catalogue.category_id)[products.product_rows]
    number, count, shown = most_of(category_id)
    known = categories_path or "the training data"
    if not count:
        return "has a category_id; labelled products are needed"
    others = "another one" if number == 1 else f"{number} others"
    return f"is of a category of {known}, but of {others}: {shown}; name data that fit together"
