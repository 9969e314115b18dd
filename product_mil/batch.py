"""Packed batches, which the loader sends to the devices, and the names of their dimensions.

The dimensions are S shards, n image slots and p product slots in each shard, h x w pixels, d
numbers of an embedding, and k classes. All images of a product are in one shard. Image slot j of a
shard belongs to product slot `segment[j]`. Padding has segment p, an extra slot that is cut off
after pooling, so the pixels of padding change no result. Arrays are NumPy arrays on the host and
JAX arrays on devices.
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int32, UInt8

Size = Any  # of a dimension: an int, or a symbol in a function that is exported for any size
Shape = tuple[Size, ...]


class Slots(NamedTuple):
    """Which product each image slot belongs to. It is known before any pixel is read."""

    segment: Int32[Any, "S n"]  # product slot of each image; p marks padding
    image_index: Int32[Any, "S n"]  # index of the image within its product, from 0
    label: Int32[Any, "S p"]  # class index; -1 where unknown or padding

    @property
    def is_image(self) -> Bool[Any, "S n"]:
        """Whether a slot holds an image; the others are padding."""
        return self.segment < self.label.shape[1]


class PackedBatch(NamedTuple):
    """Pixels of images, with their slots."""

    images: UInt8[Any, "S n h w 3"]
    slots: Slots


class EmbeddedBatch(NamedTuple):
    """A batch that has embeddings of a frozen backbone in place of pixels."""

    embeddings: Float[Any, "S n d"]
    slots: Slots


Batch = PackedBatch | EmbeddedBatch  # what a model takes


class SizedBatch(NamedTuple):
    """A batch that has its images at several sizes, for models with different input sizes."""

    images: tuple[UInt8[Any, "S n h w 3"], ...]
    slots: Slots
