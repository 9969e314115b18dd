"""The submission: a CSV with the category of each product."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np

from product_mil.files.outputs import Kind, csv_with_header
from product_mil.files.whole import Draft
from product_mil.inference.predictions import PredictionBlock
from product_mil.sources.ids import Ids

SUBMISSION = Kind(
    "a submission", (".csv", ".csv.gz"), csv_with_header(("_id", "category_id"), marked=True)
)


class SubmissionWriter:
    """Writes a CSV with a row `_id,category_id` for each product, compressed if named .gz."""

    def __init__(self, path: Path, class_ids: Ids[np.ndarray, " k"]) -> None:
        """Open the file; raises OSError if it cannot be made."""
        draft = Draft(path, SUBMISSION)
        self.drafts = [draft]
        self._class_ids = class_ids
        # Without name and time in the header, equal predictions give equal bytes.
        compressed = path.name.lower().endswith(".gz")
        self._gzip = gzip.GzipFile("", "wb", 6, draft.file, mtime=0) if compressed else None
        self._stream = self._gzip or draft.file
        self._stream.write(b"_id,category_id\n")

    def write(self, block: PredictionBlock) -> None:
        """Append a block."""
        guesses = self._class_ids[block.top_class[:, 0]]
        rows = zip(block.product_id.tolist(), guesses.tolist(), strict=True)
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode())

    def close(self) -> None:
        """Finish the file."""
        if self._gzip is not None:
            self._gzip.close()
