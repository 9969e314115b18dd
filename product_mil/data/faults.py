"""The list of what could not be read: one line a fault, beside the output it concerns."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from product_mil.data.index import Catalogue
from product_mil.data.loader import ImageFault

COLUMNS = ImageFault._fields
MAX_KINDS = 8  # named in the summary; all are in the list


class FaultList:
    """Collects faults, each once however often its image is met, and writes them as CSV."""

    def __init__(self, path: Path) -> None:
        """Faults already listed at `path` are kept: a run that resumes adds to them."""
        self.path = path
        self._faults: dict[tuple[str, str, str], tuple[str, ...]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                for row in list(csv.reader(file))[1:]:
                    self._faults[row[0], row[1], row[3]] = tuple(row)

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, faults: Iterable[ImageFault]) -> None:
        """Add faults of images."""
        for fault in faults:
            row = tuple(map(str, fault))
            self._faults[row[0], row[1], row[3]] = row

    def add_records(self, catalogue: Catalogue) -> None:
        """Add what indexing found; record faults have no image index."""
        for path, fault in catalogue.faults:
            product_id = "" if fault.product_id is None else str(fault.product_id)
            row = (str(path), str(fault.offset_bytes), product_id, "", fault.reason)
            self._faults[row[0], row[1], row[3]] = row

    def write(self) -> str | None:
        """Write the list whole, if there is anything in it; a line that sums it up, or None."""
        if not self._faults:
            return None
        draft = self.path.with_name(self.path.name + ".draft")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self._faults.values())
        draft.replace(self.path)
        kinds = Counter(row[-1].split(":")[0] for row in self._faults.values())
        shown = [f"{count} x {kind}" for kind, count in kinds.most_common(MAX_KINDS)]
        shown += ["..."] * (len(kinds) > MAX_KINDS)
        return f"{len(self._faults)} faults in the data ({', '.join(shown)}): see {self.path}"
