"""Find which products a run has seen, so that nobody takes its accuracy on them for a test."""

import functools
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from product_mil.config import Config
from product_mil.data.duplicates import sharing_products
from product_mil.data.products import Products
from product_mil.errors import UserError
from product_mil.files.whole import whole
from product_mil.runs.data import RunData, build_data, data_config
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.ids import Ids, joined
from product_mil.sources.lookup import are_among
from product_mil.sources.opening import is_read_once

PRODUCTS_FILE = "products.npz"


@dataclass(frozen=True)
class Known:
    """How many of some products a run was trained on, or chose its settings on (validation).

    A product is recognised by its id and, if the run's data are available, by an image, because the
    same id may be another product in another shop.
    """

    products: int
    trained: int
    validated: int
    # Both are None if the run's data are not available, and only ids were compared.
    same_id: int | None  # other products with a known id, but only unknown images
    same_image: int | None  # other products with an image of a training product

    @property
    def is_test(self) -> bool:
        """Whether the run has seen none of these products, as far as is known."""
        return not (self.trained or self.validated or self.same_image)

    def sentence(self, run: str) -> str:
        """What `run` has seen of the products on which its accuracy is measured."""
        if self.is_test:
            doubt = ": if they are the same products, this is no test" if self.same_id else ""
            return self.seen(run) + doubt
        return f"{self.seen(run)}: this is no test"

    def seen(self, run: str, which: str = "") -> str:
        """What `run` has seen of the products; `which` says which they are."""
        products = f"of the {self.products} products {which}"
        if not which:
            products = f"of these {self.products} products"
        by_id = self.same_image is None
        how = ", going by their ids alone (images were not compared)" if by_id else ""
        if self.same_id:
            how = f"; {self.same_id} have the id of one that it has seen, with other images"
        if self.is_test:
            return f"{run} has seen none {products} in training{how}"
        parts = []
        if self.trained:
            parts.append(f"was trained on {self.trained}")
        if self.validated:
            parts.append(f"chose its settings on {self.validated}")
        if self.same_image:
            parts.append(f"was trained on an image of {self.same_image}")
        joined = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
        return f"{run} {joined} {products}{how}"


def keep_products(workdir: Path, data: RunData) -> None:
    """Write the ids of training and validation products to a run's directory, if not yet there."""
    path = workdir / PRODUCTS_FILE
    if not path.exists():
        with whole(path) as file:
            np.savez_compressed(file, trained=_ids(data.train), validated=_ids(data.valid))


def _ids(products: Products) -> Ids[np.ndarray, " N"]:
    return np.sort(np.asarray(products.catalogue.product_id)[products.product_rows])


class Shown(NamedTuple):
    """Which products of a catalogue have an image in common with a run's data."""

    trained: Bool[np.ndarray, " N"]  # an image of a training product
    validated: Bool[np.ndarray, " N"]  # an image of a validation product


def shown_by(data: RunData, catalogue: Catalogue) -> Shown:
    """Which products of a catalogue have an image in common with a run's data."""
    rows = np.arange(catalogue.num_products)
    return Shown(
        *(
            sharing_products(own.catalogue, own.product_rows, catalogue, rows)
            for own in (data.train, data.valid)
        )
    )


def known_products(
    workdir: Path, data: RunData | None, products: Products, shown: Shown | None = None
) -> Known | None:
    """How many of some products the run in `workdir` has seen.

    `data` are the run's data, from `run_data`, and `shown` is the result of `shown_by` for these if
    it is known already. The result is None if neither the data nor the run's list of ids are
    available.
    """
    ids = _listed(workdir)
    if ids is None:
        if data is None:
            return None
        ids = _ids(data.train), _ids(data.valid)
    product_id = np.asarray(products.catalogue.product_id)[products.product_rows]
    if data is None:
        return _by_id(ids, product_id)
    shown = Shown(
        *(column[products.product_rows] for column in shown or shown_by(data, products.catalogue))
    )
    nothing_to_see = products.num_images == 0
    trained, validated = (
        are_among(product_id, column) & (seen | nothing_to_see)
        for column, seen in zip(ids, shown, strict=True)
    )
    known = trained | validated
    only_id = are_among(product_id, joined(ids)) & ~known & ~shown.trained
    return Known(
        len(product_id),
        trained=int(trained.sum()),
        validated=int((validated & ~trained).sum()),
        same_id=int(only_id.sum()),
        same_image=int((shown.trained & ~known).sum()),
    )


def knows_an_id(workdir: Path, products: Products) -> bool:
    """Whether the list of ids of the run in `workdir` has one of these products.

    This is quick, since it reads no data of the run. It is false where there is no such list.
    """
    ids = _listed(workdir)
    product_id = np.asarray(products.catalogue.product_id)[products.product_rows]
    return ids is not None and bool(are_among(product_id, joined(ids)).any())


def known_to_file(about: Mapping[str, Any], product_id: Ids[np.ndarray, " N"]) -> Known | None:
    """`known_products` for a prediction file, by the lists of ids of the runs that it names."""
    lists = []
    for run in (about, *about.get("members", ())):
        if isinstance(run, Mapping) and "workdir" in run:
            lists.append(_listed(Path(run["workdir"])))
    ids = [found for found in lists if found is not None]
    if not ids:
        return None
    trained, validated = (joined(columns) for columns in zip(*ids, strict=True))
    return _by_id((trained, validated), product_id)


def _by_id(
    ids: tuple[Ids[np.ndarray, " a"], Ids[np.ndarray, " b"]],
    product_id: Ids[np.ndarray, " N"],
) -> Known:
    trained, validated = (are_among(product_id, column) for column in ids)
    both = int(trained.sum()), int((validated & ~trained).sum())
    return Known(len(product_id), *both, same_id=None, same_image=None)


def _listed(
    workdir: Path,
) -> tuple[Ids[np.ndarray, " a"], Ids[np.ndarray, " b"]] | None:
    try:
        with (workdir / PRODUCTS_FILE).open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            trained, validated = file["trained"].ravel(), file["validated"].ravel()
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # an older run, or a damaged list
    known = {column.dtype.kind for column in (trained, validated)} <= {"i", "U"}
    return (trained, validated) if known else None


def run_data(config: Config, fingerprint: str) -> tuple[RunData | None, str]:
    """The training and validation products of a run, or None with a reason if they are gone.

    `fingerprint` is that of the data with which the run began.
    """
    try:
        if any(is_read_once(spec) for spec in (config.data.train, config.data.valid) if spec):
            return None, "they came through a pipe"
        found = _data_of(data_config(config))
    except UserError as error:
        return None, str(error)
    if found.fingerprint != fingerprint:
        return None, "its files changed since"
    return found, ""


_data_of = functools.lru_cache(maxsize=8)(build_data)  # read once for all runs
