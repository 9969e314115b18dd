"""From a plan to packed batches: read, decode into the slot, in Grain's threads.

Element i of a source is the whole batch of step i, so the step is the only cursor: there is no
iterator state to save, and any number of threads gives the same batches.
"""

import math
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from product_mil.batch import EmbeddedBatch, PackedBatch, SizedBatch, Slots
from product_mil.data.buffers import BufferPool
from product_mil.data.decode import decode_images, is_remark
from product_mil.data.plan import Plan
from product_mil.data.products import ImageFault, Products, image_fault
from product_mil.data.workers import Elsewhere, process_workers
from product_mil.sources.catalogue import Catalogue

# To start a process takes a core as long as decoding 4,000 images of 180 px.
IMAGES_BEFORE_PROCESSES = 20_000


class Loaded(NamedTuple):
    """A batch, and what of it stays on the host."""

    batch: PackedBatch | EmbeddedBatch | SizedBatch
    positions: Int64[np.ndarray, "S p"]  # in `Products`; -1 for padding
    faults: list[ImageFault]


class _Assigned(NamedTuple):
    """Slots of a step with the images that are to fill them."""

    slots: Slots
    positions: Int64[np.ndarray, "S p"]
    image_rows: Int64[np.ndarray, "S n"]  # of the catalogue's image columns; -1 for padding


def assign_slots(products: Products, plan: Plan, step: int) -> _Assigned:
    """Give the images of step `step` their slots, in the order of the plan."""
    s, n, p = plan.shards, plan.image_slots, plan.product_slots
    slots = Slots(
        segment=np.full((s, n), p, np.int32),
        position=np.zeros((s, n), np.int32),
        label=np.full((s, p), -1, np.int32),
    )
    positions = np.full((s, p), -1, np.int64)
    image_rows = np.full((s, n), -1, np.int64)
    for shard, rows in enumerate(plan.rows(step)):
        positions[shard, : len(rows)] = rows
        slots.label[shard, : len(rows)] = products.labels[rows]
        images = products.images_of(rows)
        used = slice(len(images.row))
        image_rows[shard, used] = images.row
        slots.segment[shard, used] = images.owner
        slots.position[shard, used] = images.index
    return _Assigned(slots, positions, image_rows)


class ImageDecoder:
    """Reads images of a catalogue and decodes them into batches of one shape.

    Of the threads that call at the same time one decodes by itself, and each other hands its images
    to a process: two in one process would wait for each other at every picture. The first images
    are decoded by threads alone: for few of them no process is worth its start.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        shape: tuple[int, ...],
        *,
        images_before_processes: int = IMAGES_BEFORE_PROCESSES,
    ) -> None:
        """`shape` is that of the images of a batch: any axes, then h, w, 3."""
        self._catalogue, self._shape = catalogue, shape
        self._left = images_before_processes
        self._reader = catalogue.reader()
        self._buffers = BufferPool(shape, np.uint8)
        self._here, self._starts = threading.Lock(), threading.Lock()
        self._elsewhere: Elsewhere | None = None

    def decode(
        self, rows: Int64[np.ndarray, " m"], places: Int64[np.ndarray, " m"]
    ) -> tuple[UInt8[np.ndarray, "*b h w 3"], dict[int, ImageFault]]:
        """Decode the image in each row of the catalogue's image columns into its place of a batch.

        `places` count in the batch as if it had one axis of images; all others are black. Returns
        the batch, whose memory is used again once nothing refers to it any more, and by place in
        `rows` the faults, whose pixels are black too, and the remarks.
        """
        addresses = self._catalogue.addresses(rows)
        here = self._here.acquire(blocking=False)
        try:
            images, reasons = self._decode(addresses, places, here)
        finally:
            if here:
                self._here.release()
        self._left -= len(rows)
        black = np.ones(math.prod(self._shape[:-3]), bool)
        black[places] = False
        black[places[[place for place, reason in reasons.items() if not is_remark(reason)]]] = True
        images.reshape(-1, *self._shape[-3:])[black] = 0
        faults = {
            place: image_fault(self._catalogue, int(rows[place]), reason)
            for place, reason in reasons.items()
        }
        return images, faults

    def _decode(
        self, addresses: Any, places: Int64[np.ndarray, " m"], here: bool
    ) -> tuple[UInt8[np.ndarray, "*b h w 3"], dict[int, str]]:
        if not here and self._left <= 0 and self._reader.travels:
            with self._starts:
                if self._elsewhere is None and (workers := process_workers()):
                    self._elsewhere = Elsewhere(workers, self._reader, self._shape)
            found = self._elsewhere and self._elsewhere.decode(addresses, places)
            if found:
                return found
        images = self._buffers.take()
        flat = images.reshape(-1, *self._shape[-3:])
        targets = (flat[place] for place in places.tolist())
        return images, decode_images(self._reader.read(addresses), targets)

    def __reduce__(self) -> Any:
        """Another process has memory and workers of its own."""
        return ImageDecoder, (self._catalogue, self._shape)


class PixelSource:
    """Grain's source of pixel batches: element i is the batch of step i."""

    def __init__(
        self,
        products: Products,
        plan: Plan,
        *,
        image_size_px: int,
        num_steps: int | None = None,
        images_before_processes: int = IMAGES_BEFORE_PROCESSES,
    ) -> None:
        """`num_steps` is for training over several epochs; by default one pass."""
        self._products, self._plan = products, plan
        self._num_steps = plan.num_steps if num_steps is None else num_steps
        shape = (plan.shards, plan.image_slots, image_size_px, image_size_px, 3)
        self._decoder = ImageDecoder(
            products.catalogue, shape, images_before_processes=images_before_processes
        )

    def __len__(self) -> int:
        return self._num_steps

    def __repr__(self) -> str:
        return f"PixelSource({len(self._products)} products, {self._num_steps} steps)"

    def __getitem__(self, step: int) -> Loaded:
        """Decode the batch; a picture that fails leaves its slot as padding, with a fault.

        The memory of the pixels is used again once nothing refers to the batch any more.
        """
        slots, positions, image_rows = assign_slots(self._products, self._plan, int(step))
        places = np.flatnonzero(image_rows >= 0)
        images, faults = self._decoder.decode(image_rows.reshape(-1)[places], places)
        lost = [place for place, fault in faults.items() if not fault.is_remark]
        slots.segment.reshape(-1)[places[lost]] = self._plan.product_slots
        return Loaded(PackedBatch(images, slots), positions, list(faults.values()))


class UnseenSource:
    """Grain's source for a model that looks at no photo: slots with embeddings 0, nothing read."""

    def __init__(self, products: Products, plan: Plan) -> None:
        self._products, self._plan = products, plan

    def __len__(self) -> int:
        return self._plan.num_steps

    def __repr__(self) -> str:
        return f"UnseenSource({len(self._products)} products)"

    def __getitem__(self, step: int) -> Loaded:
        """Assign the slots of a step."""
        slots, positions, _ = assign_slots(self._products, self._plan, int(step))
        embeddings = np.zeros((*slots.segment.shape, 1), np.float32)
        return Loaded(EmbeddedBatch(embeddings, slots), positions, [])


def batches(source: Any, *, first_step: int = 0, threads: int = 0) -> Iterator[Any]:
    """The source's elements from `first_step` on, loaded ahead in threads, in order.

    `threads=0` takes one a core. Decoding releases the GIL.
    """
    import grain

    threads = threads or os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
    remaining = grain.MapDataset.source(source)[first_step:]
    return iter(remaining.to_iter_dataset(options))
