"""Predictions in blocks of products, and writers whose files appear whole or not at all.

A writer gets blocks of consecutive products and writes them to drafts of its files. `written_whole`
publishes all drafts at the end, or discards them after an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32

from product_mil.errors import OutputError
from product_mil.files.whole import Draft
from product_mil.sources.ids import Ids

FORMAT = "1"  # of the files of probabilities


@dataclass(frozen=True, eq=False)
class PredictionBlock:
    """Predictions of b consecutive products, in file order, and of their m readable images.

    The columns of images may be empty if images are not known.
    """

    product_id: Ids[np.ndarray, " b"]
    category_id: Ids[np.ndarray, " b"]  # the true one; read only where `has_category`
    has_category: Bool[np.ndarray, " b"]
    log_prob_true: Float32[np.ndarray, " b"]  # NaN where the true category is not a class
    num_images: Int32[np.ndarray, " b"]  # in the record
    num_readable_images: Int32[np.ndarray, " b"]  # with 0, the prior is predicted
    top_class: Int32[np.ndarray, "b t"]  # class indices, the most probable first
    top_probability: Float32[np.ndarray, "b t"]
    image_index: Int32[np.ndarray, " m"]  # within the product, product after product
    attention: Float32[np.ndarray, " m"]  # sums to 1 over a product's images
    image_top_class: Int32[np.ndarray, " m"]  # the guess from each image alone
    probabilities: Float32[np.ndarray, "b k"] | None
    # If logits are a sum over images: what each image adds to the logit of the product's most
    # probable class. The sum over a product's images is that logit minus the mean of all logits.
    contribution: Float32[np.ndarray, " m"] | None = None

    def __len__(self) -> int:
        return len(self.product_id)


@runtime_checkable
class Writer(Protocol):
    """An object that takes blocks in file order and writes them to its drafts."""

    drafts: list[Draft]

    def write(self, block: PredictionBlock) -> None:
        """Append a block."""
        ...

    def close(self) -> None:
        """Finish the drafts. Nothing may be written afterwards."""
        ...


@contextmanager
def written_whole(writers: list[Writer]) -> Iterator[None]:
    """Publish all files when the body ends without an error; otherwise remove the drafts.

    The body may add to `writers`.

    Raises:
        OutputError: a file cannot be written, for instance because the disk is full.
    """
    try:
        yield
        for writer in writers:
            writer.close()
        for writer in writers:
            for draft in writer.drafts:
                draft.publish()
    except OSError as error:
        names = ", ".join(str(writer.drafts[-1].path) for writer in writers if writer.drafts)
        raise OutputError(f"cannot write {names}: {error}; make room and start again") from error
    finally:
        for writer in writers:
            with suppress(OSError, ValueError):
                writer.close()
            for draft in writer.drafts:
                draft.discard()
