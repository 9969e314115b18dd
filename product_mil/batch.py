"""What travels from the loader to the device, and the names of its dimensions.

S shards, n image slots a shard, p product slots a shard, h w pixels, d embedding, k classes.
A product never crosses a shard. Image slot j of a shard belongs to product slot `segment[j]`;
padding has segment p, a slot of its own that is sliced off after pooling, so what its pixels
hold can change nothing. The arrays are NumPy's on the host and JAX's on devices.
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int32, UInt8


class Slots(NamedTuple):
    """Who sits where in a packed batch: integers only, known before any pixel is read."""

    segment: Int32[Any, "S n"]  # product slot of each image; p marks padding
    image_index: Int32[Any, "S n"]  # index of the image within its product, from 0
    label: Int32[Any, "S p"]  # class index; -1 where unknown or padding

    @property
    def is_image(self) -> Bool[Any, "S n"]:
        """Whether a slot holds an image; the others are padding."""
        return self.segment < self.label.shape[1]


class PackedBatch(NamedTuple):
    """Images with their slots."""

    images: UInt8[Any, "S n h w 3"]
    slots: Slots


class EmbeddedBatch(NamedTuple):
    """The same batch after a frozen backbone: embeddings take the place of pixels."""

    embeddings: Float[Any, "S n d"]
    slots: Slots


Batch = PackedBatch | EmbeddedBatch  # what a model takes


class SizedBatch(NamedTuple):
    """The same images at several sizes, for models that differ in them."""

    images: tuple[UInt8[Any, "S n h w 3"], ...]
    slots: Slots
