"""The list of records and images that could not be read, a CSV file beside the output."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from product_mil.data.decode import is_remark
from product_mil.data.products import ImageFault, Products
from product_mil.errors import UserError
from product_mil.files.outputs import Kind, beside, csv_with_header, is_former
from product_mil.files.whole import write_text
from product_mil.sources.catalogue import Catalogue, Fault, Place, kind_of
from product_mil.sources.ids import has_id

COLUMNS = ImageFault._fields
FAULTS = Kind("a list of faults", (".csv", ""), csv_with_header(COLUMNS))
MAX_KINDS = 8  # kinds of faults that the summary names; the list has all
_SUFFIX = ".bad_records.csv"

Policy = Literal["skip", "fail"]


class FaultList:
    """Collects faults and writes them as CSV. A fault that occurs again is listed once.

    With the policy "fail", the first fault is raised as a `UserError` instead.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        bad_records: Policy = "skip",
        bad_images: Policy = "skip",
        resumes: bool = True,
    ) -> None:
        """Make a list. A run that resumes adds to the list at `path`; another run replaces it.

        Without a path, faults are only counted.
        """
        self.path = path
        self._bad_records, self._bad_images = bad_records, bad_images
        self._faults: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._num_passed_on = 0  # of the faults, to another process
        self._unlisted = 0  # faults that the index counts beyond the 100,000 that it lists
        if resumes and path is not None and path.exists():
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                for row in list(csv.reader(file))[1:]:
                    if len(row) == len(COLUMNS):  # otherwise the row is incomplete
                        self._keep(row)

    def __len__(self) -> int:
        return len(self._faults)

    def _keep(self, values: Iterable[object]) -> None:
        """Keep a row of these values, where None is an empty cell."""
        row = tuple("" if value is None else str(value) for value in values)
        file, offset_bytes, product_id, image_index, reason = row
        # An image has one reason; a record may have several.
        what = kind_of(reason) if product_id else reason
        own = (product_id, image_index or what)
        self._faults.setdefault((file, offset_bytes, *own), row)

    def add(self, faults: Iterable[ImageFault]) -> None:
        """Add faults of images, and remarks on images that are used nevertheless.

        Raises:
            UserError: there is a fault, and the policy for images is "fail".
        """
        for fault in faults:
            if self._bad_images == "fail" and not fault.is_remark:
                raise UserError(
                    f"{fault.place}: image {fault.image_index} of "
                    f"product {fault.product_id}: {fault.reason}; correct the file, or leave such "
                    "images out with bad_images=skip"
                )
            self._keep(fault)

    def add_records(self, catalogue: Catalogue) -> None:
        """Add the faults that were found when the catalogue was indexed.

        Raises:
            UserError: there is a fault, and the policy is "fail".
        """
        self.add_products(catalogue.faults)
        self._unlisted += sum(catalogue.fault_counts.values()) - len(catalogue.faults)

    def add_products(self, faults: Iterable[tuple[Path, Fault]]) -> None:
        """Add faults of records.

        Raises:
            UserError: there is a fault, and the policy is "fail".
        """
        for path, fault in faults:
            image = fault.image_index
            if image is not None and fault.product_id is not None:
                where = ImageFault(
                    str(path), fault.offset_bytes, fault.product_id, image, fault.reason
                )
                self.add([where])
                continue
            place = Place(str(path), fault.offset_bytes)
            if self._bad_records == "fail":
                product = "" if fault.product_id is None else f" product {fault.product_id}:"
                raise UserError(
                    f"{place}:{product} {fault.reason}; correct the file, or leave such records "
                    "out with bad_records=skip"
                )
            self._keep((*place, fault.product_id, None, fault.reason))

    def add_rows(self, path: Path, errors: Iterable[str]) -> None:
        """Add rows of a category file that were left out; these have a line, not an offset."""
        for error in errors:
            line, _, reason = error.partition(": ")
            self._keep((str(path), line, "", "", f"category row left out: {reason}"))

    def not_passed_on(self) -> list[tuple[str, ...]]:
        """The rows that came since the last call, for the process that writes the list."""
        rows = list(self._faults.values())[self._num_passed_on :]
        self._num_passed_on = len(self._faults)
        return rows

    def add_listed(self, rows: Iterable[Sequence[str]]) -> None:
        """Add rows of the list of another process."""
        for row in rows:
            self._keep(row)

    def write(self) -> str | None:
        """Write the list as a whole, and return a line that summarises it.

        Without faults, nothing is written and None is returned; an earlier list, which is no longer
        true, is removed.
        """
        if not self._faults:
            if self.path is not None and is_former(self.path, FAULTS):
                self.path.unlink()
            return None
        if self.path is not None:
            text = io.StringIO(newline="")
            writer = csv.writer(text)
            writer.writerow(COLUMNS)
            writer.writerows(self._faults.values())
            write_text(self.path, text.getvalue(), FAULTS)
        kinds = Counter(kind_of(row[-1]) for row in self._faults.values())
        shown = [f"{count} x {kind}" for kind, count in kinds.most_common(MAX_KINDS)]
        shown += ["..."] * (len(kinds) > MAX_KINDS)
        more = f", and {self._unlisted} that are not listed" if self._unlisted else ""
        where = "" if self.path is None else f": see {self.path}"
        remarks = sum(is_remark(row[-1]) for row in self._faults.values())
        counts = {"faults": len(self._faults) - remarks, "remarks": remarks}
        counted = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"{counted} in the data ({', '.join(shown)}{more}){where}"


def faults_path(output: Path) -> Path:
    """The path of the list of faults that belongs to an output."""
    return beside(output, _SUFFIX)


def lost(catalogue: Catalogue) -> str | None:
    """Words for the part of the data that is in no product; None if there is none."""
    records, unread_bytes = catalogue.num_bad_records, catalogue.unread_bytes
    parts = [f"{records} broken records"] if records else []
    parts += [f"{unread_bytes} bytes that could not be read as records"] if unread_bytes else []
    return " and ".join(parts) or None


def first_fault(catalogue: Catalogue, kind: str) -> str | None:
    """The first fault of a kind with its place, such as `a.bson, byte 17: ...`, or None."""
    found = ((path, fault) for path, fault in catalogue.faults if kind_of(fault.reason) == kind)
    for path, fault in found:
        return f"{Place(str(path), fault.offset_bytes)}: {fault.reason}"
    return None


def product_faults(products: Products, *, labelled: bool) -> Iterator[tuple[Path, Fault]]:
    """Faults for products with more images than are used, or without a known category.

    Unless products have to be `labelled`, one without a category is no fault.
    """
    catalogue = products.catalogue
    num_images = np.asarray(catalogue.num_images)[products.product_rows]
    category_id = np.asarray(catalogue.category_id)[products.product_rows]
    most = products.max_images
    surplus = num_images > most
    unknown, labels = (products.labels < 0) & labelled, has_id(category_id)
    for position in np.flatnonzero(surplus | unknown).tolist():
        product_row = int(products.product_rows[position])
        file, offset_bytes = catalogue.place_of_product(product_row)
        path, where = Path(file), (offset_bytes, catalogue.product_id[product_row].item())
        if surplus[position]:
            count = num_images[position]
            reason = f"more than {most} images: {count}, of which the first {most} are used"
            yield path, Fault(*where, f"{reason}; see config.data.max_images")
        if unknown[position]:
            reason = f"unknown category: {category_id[position]} is not in the category file"
            if not labels[position]:
                reason = "no category_id: not used to train or measure"
            yield path, Fault(*where, reason)
