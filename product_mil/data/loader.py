"""Load the packed batches of a plan: read images and decode them into their slots.

Element i of a source is the whole batch of step i. So the step alone says where a run is: there is
no iterator state to save, and any number of Grain's threads gives the same batches.
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
from product_mil.data.workers import ProcessDecoder, process_workers
from product_mil.sources.catalogue import Catalogue

# To start a process takes as long as to decode 4,000 images of 180 px on one core.
IMAGES_BEFORE_PROCESSES = 20_000


class Loaded(NamedTuple):
    """A batch, with information about it that stays on the host."""

    batch: PackedBatch | EmbeddedBatch | SizedBatch
    positions: Int64[np.ndarray, "S p"]  # in `Products`; -1 for padding
    faults: list[ImageFault]


class _Assigned(NamedTuple):
    """The slots of a step, and the images that will fill them."""

    slots: Slots
    positions: Int64[np.ndarray, "S p"]
    image_rows: Int64[np.ndarray, "S n"]  # -1 for padding


def assign_slots(products: Products, plan: Plan, step: int) -> _Assigned:
    """Assign slots to the images of a step, in the order of the plan."""
    s, n, p = plan.shards, plan.image_slots, plan.product_slots
    slots = Slots(
        segment=np.full((s, n), p, np.int32),
        image_index=np.zeros((s, n), np.int32),
        label=np.full((s, p), -1, np.int32),
    )
    positions = np.full((s, p), -1, np.int64)
    image_rows = np.full((s, n), -1, np.int64)
    for shard, of_shard in enumerate(plan.positions(step)):
        positions[shard, : len(of_shard)] = of_shard
        slots.label[shard, : len(of_shard)] = products.labels[of_shard]
        images = products.images_of(of_shard)
        used = slice(len(images.image_row))
        image_rows[shard, used] = images.image_row
        slots.segment[shard, used] = images.owner
        slots.image_index[shard, used] = images.image_index
    return _Assigned(slots, positions, image_rows)


class ImageDecoder:
    """Reads images of a catalogue and decodes them into batches of one shape.

    Several threads may call `decode` at the same time. One of them decodes by itself, and each
    other one passes its images to a process, since two threads of one process would wait for each
    other at every image. The first images are decoded by threads alone, because starting processes
    does not pay for few images; processes that another decoder started are used at once.
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
        self._thread_decodes, self._starts = threading.Lock(), threading.Lock()
        self._processes: ProcessDecoder | None = None

    def decode(
        self, image_rows: Int64[np.ndarray, " m"], slots: Int64[np.ndarray, " m"]
    ) -> tuple[UInt8[np.ndarray, "*b h w 3"], dict[int, ImageFault]]:
        """Decode each image into its slot of a batch.

        `slots` are indices into the batch as if it had one axis of images; other slots become
        black. Returns the batch, and by number in `image_rows` the faults and remarks. Images with
        a fault are black, too. The memory of the batch is used again when nothing refers to it.
        """
        addresses = self._catalogue.addresses(image_rows)
        in_thread = self._thread_decodes.acquire(blocking=False)
        try:
            images, reasons = self._decode(addresses, slots, in_thread)
        finally:
            if in_thread:
                self._thread_decodes.release()
        self._left -= len(image_rows)
        black = np.ones(math.prod(self._shape[:-3]), bool)
        black[slots] = False
        lost = [number for number, reason in reasons.items() if not is_remark(reason)]
        black[slots[lost]] = True
        images.reshape(-1, *self._shape[-3:])[black] = 0
        faults = {
            number: image_fault(self._catalogue, int(image_rows[number]), reason)
            for number, reason in reasons.items()
        }
        return images, faults

    def _decode(
        self, addresses: Any, slots: Int64[np.ndarray, " m"], in_thread: bool
    ) -> tuple[UInt8[np.ndarray, "*b h w 3"], dict[int, str]]:
        if not in_thread and self._reader.travels:
            with self._starts:
                workers = None if self._processes else process_workers()
                if workers and (workers.started or self._left <= 0):
                    self._processes = ProcessDecoder(workers, self._reader, self._shape)
            found = self._processes and self._processes.decode(addresses, slots)
            if found:
                return found
        images = self._buffers.take()
        flat = images.reshape(-1, *self._shape[-3:])
        targets = (flat[slot] for slot in slots.tolist())
        return images, decode_images(self._reader.read(addresses), targets)

    def __reduce__(self) -> Any:
        """Pickle the arguments alone, since another process has its own memory and workers."""
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
        """Decode the batch of a step. An unreadable image becomes padding, and a fault.

        The memory of the pixels is used again when nothing refers to the batch any more.
        """
        slots, positions, image_rows = assign_slots(self._products, self._plan, int(step))
        used = np.flatnonzero(image_rows >= 0)  # image slots
        images, faults = self._decoder.decode(image_rows.reshape(-1)[used], used)
        lost = [number for number, fault in faults.items() if not fault.is_remark]
        slots.segment.reshape(-1)[used[lost]] = self._plan.product_slots
        return Loaded(PackedBatch(images, slots), positions, list(faults.values()))


class UnseenSource:
    """Grain's source for a model that looks at no image: all embeddings are 0, nothing is read."""

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
    """The source's elements from `first_step` on, in order, loaded in advance by threads.

    `threads=0` means one for each core. Decoding releases the GIL.
    """
    import grain

    threads = threads or os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
    remaining = grain.MapDataset.source(source)[first_step:]
    return iter(remaining.to_iter_dataset(options))
