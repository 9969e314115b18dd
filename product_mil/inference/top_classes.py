"""The most probable classes of each product, and what its images did, as a Parquet file.

The file has category ids, never class indices, with the list of classes and a description of the
run in its metadata.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from product_mil.errors import UserError
from product_mil.files.foreign import PARQUET_PREDICTIONS, refuse_foreign
from product_mil.files.formats import refuse_unknown_format
from product_mil.files.outputs import Kind
from product_mil.files.whole import Draft, to_json
from product_mil.inference.predictions import FORMAT, PredictionBlock
from product_mil.sources.ids import NO_CATEGORY, Ids, is_text
from product_mil.version import __version__

CONTRIBUTION = "image_contribution"  # a column that older files lack
_IDS = ("product_id", "top_category_id")  # columns without which a row says nothing, as are these:
_NUMBERS = ("top_probability", "remaining_probability", "num_images")
_CONTRIBUTION_TYPE = pa.list_(pa.float32())
ROWS_PER_GROUP = 32_768  # rows of the Parquet file that are collected in memory, then written


def _is_top_classes(path: Path) -> bool:
    with pa.OSFile(os.fsencode(path)) as file:  # as bytes, since a name may not be UTF-8
        return b"product_mil.format" in (pq.read_schema(file).metadata or {})


TOP_CLASSES = Kind("a table of the most probable classes", (".parquet", ""), _is_top_classes)


class ParquetWriter:
    """Writes the t most probable classes of each product, and attention and guess of its images."""

    def __init__(
        self,
        path: Path,
        class_ids: Ids[np.ndarray, " k"],
        *,
        categories_json: str,
        run: Mapping[str, Any],
    ) -> None:
        """Open the file; `categories_json` and `run` go into its metadata (`PredictionFile`).

        Raises:
            OSError: the file cannot be made.
        """
        draft = Draft(path, TOP_CLASSES)
        self.drafts = [draft]
        self._class_ids = class_ids
        self._metadata = {
            "product_mil.format": FORMAT,
            "product_mil.version": __version__,
            "product_mil.categories": categories_json,
            "product_mil.run": to_json(dict(run), indent=None),
        }
        self._writer: pq.ParquetWriter | None = None  # once a block has come
        self._waiting: list[pa.RecordBatch] = []
        self._rows_waiting = 0

    def write(self, block: PredictionBlock) -> None:
        """Append a block."""
        batch = _record_batch(block, self._class_ids)
        # Copy it into Arrow's memory: small NumPy arrays that stay between the large ones of
        # batches would fragment the heap.
        self._waiting.append(batch.take(np.arange(len(block))))
        self._rows_waiting += len(block)
        if self._rows_waiting >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting)
        self._waiting, self._rows_waiting = [], 0
        if self._writer is None:
            schema = table.schema.with_metadata(self._metadata)
            self._writer = pq.ParquetWriter(self.drafts[0].file, schema, compression="zstd")
        self._writer.write_table(table, row_group_size=2 * ROWS_PER_GROUP)

    def close(self) -> None:
        """Finish the file."""
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()


def _schema(block: PredictionBlock, class_ids: Ids[np.ndarray, " k"]) -> pa.Schema:
    product_id, category_id, class_id = (
        pa.string() if is_text(ids) else pa.int64()
        for ids in (block.product_id, block.category_id, class_ids)
    )
    topk = block.top_class.shape[1]
    return pa.schema(
        [
            pa.field("product_id", product_id, nullable=False),
            ("category_id", category_id),  # the true one, where the record has one
            ("log_prob_true", pa.float32()),  # null where the true category is not a class
            pa.field("num_images", pa.int32(), nullable=False),
            pa.field("num_readable_images", pa.int32(), nullable=False),
            ("top_category_id", pa.list_(class_id, topk)),
            ("top_probability", pa.list_(pa.float32(), topk)),
            pa.field("remaining_probability", pa.float32(), nullable=False),
            ("image_index", pa.list_(pa.int32())),  # of the readable images, as are these:
            ("image_attention", pa.list_(pa.float32())),
            ("image_category_id", pa.list_(class_id)),
            # To the logit of the first category; null if the logits are not a sum over images.
            (CONTRIBUTION, _CONTRIBUTION_TYPE),
        ]
    )


def _record_batch(block: PredictionBlock, class_ids: Ids[np.ndarray, " k"]) -> pa.RecordBatch:
    topk = block.top_class.shape[1]
    # A block that comes from files has no images, so its lists are empty.
    listed = block.num_readable_images if len(block.image_index) else 0 * block.num_readable_images
    offsets = np.concatenate([[0], np.cumsum(listed)]).astype(np.int32)
    kept = block.top_probability.sum(1, dtype=np.float64)

    def of_images(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    def of_top(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), topk)

    contribution = block.contribution
    of_contributions = (
        pa.nulls(len(block), _CONTRIBUTION_TYPE)
        if contribution is None
        else of_images(contribution)
    )
    return pa.RecordBatch.from_arrays(
        [
            pa.array(block.product_id),
            pa.array(block.category_id, mask=~block.has_category),
            pa.array(block.log_prob_true, mask=np.isnan(block.log_prob_true)),
            pa.array(block.num_images),
            pa.array(block.num_readable_images),
            of_top(class_ids[block.top_class]),
            of_top(block.top_probability),
            pa.array(np.clip(1 - kept, 0, 1).astype(np.float32)),
            of_images(block.image_index),
            of_images(block.attention),
            of_images(class_ids[block.image_top_class]),
            of_contributions,
        ],
        schema=_schema(block, class_ids),
    )


@dataclass(frozen=True, eq=False)
class PredictionFile:
    """A file of `ParquetWriter`: its rows in order, its categories and its run."""

    path: Path
    table: pa.Table
    categories_json: str  # ids and names of all k classes
    run: dict[str, Any]  # configuration, checkpoint and fingerprints

    def column(self, name: str) -> np.ndarray:
        """A column `[N]`, or `[N, t]` for the top classes; missing numbers become NaN."""
        column = self.table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            return column.flatten().to_numpy().reshape(len(column), -1)
        return column.to_numpy(zero_copy_only=False)

    def ids(self, name: str) -> Ids[np.ndarray, "N ..."]:
        """A column of ids `[N]`, or `[N, t]` for the top classes."""
        column = self.table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            return ids_in(column.flatten()).reshape(len(column), -1)
        return ids_in(column)


def ids_in(column: pa.Array) -> Ids[np.ndarray, " N"]:
    """The ids of an Arrow column of integers or text."""
    if pa.types.is_string(column.type):
        return np.array(column.fill_null("").to_pylist(), np.str_)
    return column.fill_null(NO_CATEGORY).to_numpy()


def _refuse_changed(path: Path, table: pa.Table) -> None:
    """Refuse a table that another program wrote with gaps or with ids of another type."""
    for name in {*_IDS, *_NUMBERS} & set(table.column_names):
        column = table.column(name).combine_chunks()
        values = column.flatten() if name.startswith("top_") else column
        kind = values.type
        of_ids = pa.types.is_string(kind) or pa.types.is_int64(kind)
        if name in _IDS and not of_ids:
            raise UserError(f"{path}: the column {name} holds values of type {kind}; export again")
        if column.null_count or values.null_count:
            raise UserError(f"{path}: the column {name} has empty values; export again")


def read_predictions(path: Path, columns: Sequence[str] | None = None) -> PredictionFile:
    """Read a file of `ParquetWriter`, with all its columns or those named.

    Contributions are null in files from versions without them.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    refuse_foreign(path, PARQUET_PREDICTIONS)
    try:
        with pa.OSFile(os.fsencode(path)) as file:
            schema = pq.read_schema(file)
            metadata = schema.metadata or {}
            if b"product_mil.format" not in metadata:
                raise UserError(f"{path} was not written by product-mil predict --probabilities")
            refuse_unknown_format(
                metadata[b"product_mil.format"].decode(errors="replace"),
                (FORMAT,),
                metadata.get(b"product_mil.version", b"?").decode(errors="replace"),
                path,
            )
            there = set(schema.names)
            named = (
                None
                if columns is None
                else [name for name in columns if name != CONTRIBUTION or name in there]
            )
            table = pq.read_table(file, columns=named)
    except (OSError, pa.ArrowInvalid) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"cannot read predictions from {path}: {reason}") from None
    if not len(table):
        raise UserError(f"{path} holds no product; export the predictions again")
    _refuse_changed(path, table)
    if CONTRIBUTION not in there and (columns is None or CONTRIBUTION in columns):
        table = table.append_column(CONTRIBUTION, pa.nulls(len(table), _CONTRIBUTION_TYPE))
    try:
        categories_json, run = (
            metadata[f"product_mil.{name}".encode()].decode() for name in ("categories", "run")
        )
        return PredictionFile(path, table, categories_json, dict(json.loads(run)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not say what it predicts ({error}); export it again"
        ) from None
