"""The training and validation products of a run, their classes, and notes on them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from product_mil.config import Config, DataConfig
from product_mil.data.duplicates import drop_images, shared_with
from product_mil.data.faults import first_fault, product_faults
from product_mil.data.products import Products
from product_mil.data.split import split_products
from product_mil.errors import UserError
from product_mil.runs.lacking import (
    has_images,
    most_of,
    no_split,
    no_training_product,
    no_validation_product,
    one_category,
    refuse_level_losses,
    refuse_unlabelled,
)
from product_mil.sources.catalogue import OTHER_CATEGORY, Catalogue, Fault
from product_mil.sources.categories import Categories, categories_from_ids, read_categories
from product_mil.sources.ids import has_id
from product_mil.sources.opening import check_sources, open_catalogue
from product_mil.sources.sample.draw import ensure_sample


@dataclass(frozen=True)
class RunData:
    """The products of a run, their classes, and notes on them."""

    train: Products
    valid: Products
    categories: Categories
    class_counts: Int64[np.ndarray, " k"]  # in train
    fingerprint: str
    notes: list[str]
    product_faults: list[tuple[Path, Fault]]  # found with the run's settings, not by the index
    category_faults: list[str]  # rows of the category file that were left out


def data_config(config: Config) -> Config:
    """The part of a configuration that decides its products: data, and the seed if it matters."""
    draws = not config.data.valid or config.data.max_products
    return Config(data=config.data, seed=config.seed if draws else 0)


def build_data(config: Config) -> RunData:
    """Index, split and label the products.

    Raises:
        UserError: the data are missing or of another kind, or there is no labelled product.
    """
    data, notes = config.data, []
    train_spec, categories_path = data.train, data.categories
    if not train_spec:
        sample = ensure_sample(data.sample_seed)
        train_spec, categories_path = str(sample.train), str(sample.categories)
    check_sources(data.valid or train_spec)  # refuses wrong kinds of files before any is read
    catalogue = open_catalogue(train_spec)
    refuse_unlabelled(train_spec, catalogue)
    category_faults: list[str] = []
    skipped = category_faults if data.bad_categories == "skip" else None
    categories = (
        read_categories(Path(categories_path), skipped)
        if categories_path
        else categories_from_ids(np.asarray(catalogue.category_id))
    )
    refuse_level_losses(config, categories)
    dropped = drop_images(catalogue, data.drop_images_md5) if data.drop_images_md5 else None
    split = split_products(
        catalogue,
        valid_fraction=0.0 if data.valid else data.valid_fraction,
        seed=config.seed,
        max_products=data.max_products,
        ignored_images=dropped,
    )
    if split.num_linked and not data.valid:
        notes.append(f"{split.num_linked} products share an image: kept on one side of the split")
    popular = zip(split.popular_images.tolist(), split.popular_num_products, strict=True)
    for image, count in list(popular)[:5]:
        notes.append(
            f"an image is in {count} products ({catalogue.place_of_image(image)}); if it is a "
            "placeholder, name its md5 in config.data.drop_images_md5"
        )
    first = catalogue.first_records()
    train_rows, valid_rows, valid_catalogue, valid_dropped = (
        np.intersect1d(split.train_rows, first),
        np.intersect1d(split.valid_rows, first),
        catalogue,
        dropped,
    )
    fingerprint = catalogue.fingerprint
    if data.valid:
        valid_catalogue = open_catalogue(data.valid)
        valid_rows = valid_catalogue.first_records()
        shared = shared_with(catalogue, train_rows, valid_catalogue, valid_rows)
        if shared:
            notes.append(f"{shared} validation products share an image with training")
        if data.drop_images_md5:
            valid_dropped = drop_images(valid_catalogue, data.drop_images_md5)
        fingerprint += valid_catalogue.fingerprint
    train = _products(catalogue, train_rows, categories, data.max_images, dropped)
    valid = _products(valid_catalogue, valid_rows, categories, data.max_images, valid_dropped)
    found = [*product_faults(train, labelled=True), *product_faults(valid, labelled=True)]
    notes += [f"{categories_path}: {len(category_faults)} bad rows left out"][
        : len(category_faults)
    ]
    surplus = sum("more than" in fault.reason for _, fault in found)
    notes += [f"{surplus} products have more images than config.data.max_images"][:surplus]
    imageless = int((train.num_images == 0).sum())
    notes += _unlabelled(train, categories_path, data.bad_categories)
    if imageless:
        notes.append(f"{imageless} training products have no image: left out")
    usable = _usable(train, valid, data, train_spec)
    notes += one_category(usable, categories)
    scored = int((valid.labels >= 0).sum())
    if scored < len(valid):
        notes.append(f"{len(valid) - scored} validation products of unknown category: not scored")
    return RunData(
        train=usable,
        valid=valid,
        categories=categories,
        class_counts=np.bincount(usable.labels, minlength=len(categories.ids)).astype(np.int64),
        fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest()[:32],
        notes=notes,
        product_faults=found,
        category_faults=category_faults,
    )


def _usable(train: Products, valid: Products, data: DataConfig, train_spec: str) -> Products:
    """The training products with an image and a class.

    Raises:
        UserError: there is none, or nothing to validate on, with what is the case.
    """
    usable = train.subset((train.labels >= 0) & (train.num_images > 0))
    if not len(usable) or not has_images(train):
        raise UserError(no_training_product(train_spec, train, data.categories))
    if not len(valid) and not data.valid:
        drawn = f" (config.data.max_products={data.max_products})" * bool(data.max_products)
        raise UserError(no_split(train_spec + drawn, train, data.valid_fraction))
    if (valid.labels < 0).all():
        spec = data.valid or "the validation part"
        raise UserError(no_validation_product(spec, valid, data.categories))
    return usable


def _unlabelled(train: Products, path: str, policy: str) -> Iterator[str]:
    """Lines on products without a class.

    Raises:
        UserError: they are most of those with a category, and the policy is to fail: the category
            file is one of other data.
    """
    category_id = np.asarray(train.catalogue.category_id)[train.product_rows]
    nameless = int((~has_id(category_id)).sum())
    if nameless:
        other = first_fault(train.catalogue, OTHER_CATEGORY)
        no_integer = f", or one of another type ({other})" if other else ""
        yield f"{nameless} training products have no category_id{no_integer}: left out"
    number, count, shown = most_of(category_id[train.labels < 0])
    if number:
        what = f"{path} lacks {number} categories of {count} training products ({shown})"
        if policy == "fail" and count > (len(train) - nameless) / 2:
            raise UserError(
                f"{what}, more than half of them: name the file that belongs to the data, or "
                "leave these products out with config.data.bad_categories=skip"
            )
        yield f"{what}: left out; add rows for them to train on these too"


def _products(
    catalogue: Catalogue,
    rows: np.ndarray,
    categories: Categories,
    max_images: int,
    dropped: np.ndarray | None,
) -> Products:
    labels = categories.class_of(np.asarray(catalogue.category_id)[rows])
    return Products(catalogue, rows, labels, max_images, dropped)
