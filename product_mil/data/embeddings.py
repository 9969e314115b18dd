"""The embedding cache: a frozen backbone's embedding of each distinct image, kept on disk.

A store belongs to one backbone with its weights, one image size and one number format. Its keys are
hashes of the images' contents, so runs, variants, seeds and exports can share it. It is a directory
of parts, each written whole, so a run that is killed while it embeds loses at most one part.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8, UInt64

from product_mil.batch import EmbeddedBatch
from product_mil.data.duplicates import hashes_of
from product_mil.data.loader import ImageDecoder, Loaded, assign_slots, batches
from product_mil.data.plan import Plan
from product_mil.data.products import ImageFault, Products, image_fault
from product_mil.files.whole import whole_directory
from product_mil.progress import Progress
from product_mil.sources.catalogue import UNREAD, Catalogue, kind_of
from product_mil.sources.lookup import rows_in_sorted

PART_IMAGES = 4096  # at most this many embeddings are lost if the process is killed
FLOAT32_BYTES = 4_000_000_000  # stores that would be larger hold float16

Embed = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b d"]]


def store_dtype(num_images: int, dim: int) -> str:
    """The number format of a store: float32, or float16 if the store would be large."""
    return "float32" if num_images * dim * 4 <= FLOAT32_BYTES else "float16"


def _keys(hashes: UInt64[np.ndarray, "m 2"]) -> np.ndarray:
    """128-bit hashes as single values, which can be sorted and compared."""
    pairs = np.ascontiguousarray(hashes, ">u8")
    return pairs.view("S16").reshape(-1) if pairs.size else np.zeros(0, "S16")


class EmbeddingStore:
    """All parts of one store as one sorted table."""

    def __init__(self, directory: Path, *, dim: int, dtype: str) -> None:
        self.directory, self.dim, self.dtype = directory, dim, np.dtype(dtype)
        self.reload()

    def reload(self) -> None:
        """Map the existing parts. A damaged one is left out, and its images are embedded again."""
        self._parts: list[np.ndarray] = []
        keys, parts, rows = [], [], []
        for path in sorted(self.directory.glob("part-*")):
            try:
                hashes = np.load(path / "hash.npy")
                values = np.load(path / "embedding.npy", mmap_mode="r")
            except (OSError, ValueError, EOFError):
                continue
            if values.shape != (len(hashes), self.dim) or values.dtype != self.dtype:
                continue
            keys.append(_keys(hashes))
            parts.append(np.full(len(hashes), len(self._parts)))
            rows.append(np.arange(len(hashes)))
            self._parts.append(values)
        all_keys = np.concatenate(keys) if keys else np.zeros(0, "S16")
        self._keys, first = np.unique(all_keys, return_index=True)
        self._part = np.concatenate(parts)[first] if keys else np.zeros(0, np.int64)
        self._row = np.concatenate(rows)[first] if keys else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, hashes: UInt64[np.ndarray, "m 2"]) -> Int64[np.ndarray, " m"]:
        """The store row of each image; -1 if the store does not have it."""
        return rows_in_sorted(self._keys, _keys(hashes))

    def take(self, store_rows: Int64[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        """The embeddings in these rows, in float32."""
        result = np.empty((len(store_rows), self.dim), np.float32)
        part, row = self._part[store_rows], self._row[store_rows]  # of the part
        for number in np.unique(part):
            chosen = part == number
            result[chosen] = self._parts[number][row[chosen]]
        return result

    def add(self, hashes: UInt64[np.ndarray, "m 2"], embeddings: Float[np.ndarray, "m d"]) -> None:
        """Write a part as a whole. It can be read after `reload`."""
        with whole_directory(self.directory / f"part-{uuid.uuid4().hex}") as part:
            np.save(part / "hash.npy", hashes)
            np.save(part / "embedding.npy", embeddings.astype(self.dtype))


class _ImageBatch(NamedTuple):
    images: UInt8[np.ndarray, "b h w 3"]
    readable: Bool[np.ndarray, " b"]
    faults: list[ImageFault]


class ImageSource:
    """Grain's source of single images in fixed batches: element i is the i-th batch."""

    def __init__(
        self,
        catalogue: Catalogue,
        image_rows: Int64[np.ndarray, " m"],
        *,
        image_size_px: int,
        batch_images: int,
    ) -> None:
        self._image_rows, self._batch_images = image_rows, batch_images
        self._decoder = ImageDecoder(catalogue, (batch_images, image_size_px, image_size_px, 3))

    def __len__(self) -> int:
        return (len(self._image_rows) + self._batch_images - 1) // self._batch_images

    def __repr__(self) -> str:
        return f"ImageSource({len(self._image_rows)} images)"

    def __getitem__(self, index: int) -> _ImageBatch:
        """Decode a batch. The last one is filled up with black images."""
        start = int(index) * self._batch_images
        rows = self._image_rows[start : start + self._batch_images]
        images, faults = self._decoder.decode(rows, np.arange(len(rows)))
        lost = [number for number, fault in faults.items() if not fault.is_remark]
        readable = ~np.isin(np.arange(len(rows)), lost)
        return _ImageBatch(images, readable, list(faults.values()))


def embed_images(
    catalogue: Catalogue,
    image_rows: Int64[np.ndarray, " m"],
    embed: Embed,
    *,
    image_size_px: int,
    batch_images: int,
    threads: int = 0,
    shows_progress: bool = True,
) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[np.ndarray, "b d"], list[ImageFault]]]:
    """Yield image rows and embeddings of the readable images, and faults, batch by batch.

    `embed` always gets `batch_images` images, because sums of other shapes may round differently.
    """
    source = ImageSource(
        catalogue, image_rows, image_size_px=image_size_px, batch_images=batch_images
    )
    with Progress(len(image_rows), "images", label="embedding", shown=shows_progress) as bar:
        for number, batch in enumerate(batches(source, threads=threads)):
            rows = image_rows[number * batch_images : (number + 1) * batch_images]
            values = embed(batch.images)[: len(rows)]
            yield rows[batch.readable], values[batch.readable], batch.faults
            bar.update(len(rows))


def used_images(products: Products) -> Int64[np.ndarray, " m"]:
    """The rows of all images in the products' batches, ascending."""
    return np.sort(products.images_of(np.arange(len(products))).image_row)


def fill_store(
    store: EmbeddingStore,
    selections: Sequence[Products],
    embed: Embed,
    *,
    image_size_px: int,
    batch_images: int,
    threads: int,
    share: tuple[int, int] = (0, 1),
) -> tuple[int, list[ImageFault]]:
    """Embed every distinct image of the products that the store does not hold yet.

    `share` is this process's number and that of all processes: each one embeds other images.

    Returns the number of images embedded, and a list of the images that could not be read and of
    remarks on images that were embedded now.
    """
    embedded, faults = 0, []
    for products in selections:
        catalogue, image_rows = products.catalogue, used_images(products)
        hashes = hashes_of(catalogue)[image_rows]
        reasons: dict[Any, str] = {}  # by the image's fault without a reason, and by its content
        chosen = hashes[:, 1] % np.uint64(share[1]) == share[0]
        left = np.flatnonzero((store.find(hashes) < 0) & chosen)
        while len(left):
            keys = _keys(hashes[left])
            first = np.sort(np.unique(keys, return_index=True)[1])
            waiting: list[tuple[np.ndarray, np.ndarray]] = []
            found = embed_images(
                catalogue,
                image_rows[left[first]],
                embed,
                image_size_px=image_size_px,
                batch_images=batch_images,
                threads=threads,
            )
            for done, values, bad in found:
                reasons |= {fault._replace(reason=""): fault.reason for fault in bad}
                faults += [fault for fault in bad if fault.is_remark]
                waiting.append((hashes_of(catalogue)[done], values))
                embedded += len(done)
                if sum(len(value) for _, value in waiting) >= PART_IMAGES:
                    _write_part(store, waiting)
            _write_part(store, waiting)
            store.reload()
            # One of several identical images was tried; if its file could not be read, try another.
            unread = []
            for tried in first[store.find(hashes[left[first]]) < 0].tolist():
                reason = reasons[image_fault(catalogue, int(image_rows[left[tried]]), "")]
                reasons[bytes(keys[tried])] = reason
                unread += [keys[tried]] * (kind_of(reason) == UNREAD)
            again = np.isin(keys, unread)
            again[first] = False
            left = left[again]
        for lacking in np.flatnonzero((store.find(hashes) < 0) & chosen).tolist():
            fault = image_fault(catalogue, int(image_rows[lacking]), "")
            of_content = reasons[bytes(_keys(hashes[lacking : lacking + 1])[0])]
            faults.append(fault._replace(reason=reasons.get(fault, of_content)))
    return embedded, faults


def _write_part(store: EmbeddingStore, waiting: list[tuple[np.ndarray, np.ndarray]]) -> None:
    if any(len(values) for _, values in waiting):
        hashes, values = (np.concatenate(part) for part in zip(*waiting, strict=True))
        store.add(hashes, values)
    waiting.clear()


class EmbeddedSource:
    """Grain's source of batches from a store: the plan and the slots of `PixelSource`."""

    def __init__(
        self, products: Products, plan: Plan, store: EmbeddingStore, *, num_steps: int
    ) -> None:
        """The store must be filled. Images that it lacks are unreadable, and become padding."""
        self._products, self._plan, self._store = products, plan, store
        self._num_steps = num_steps
        image_rows = used_images(products)
        # The store row of each image row; padding has image row -1, which is the last element.
        self._store_row = np.full(products.catalogue.num_images_total + 1, -1, np.int64)
        self._store_row[image_rows] = store.find(hashes_of(products.catalogue)[image_rows])

    def __len__(self) -> int:
        return self._num_steps

    def __repr__(self) -> str:
        return f"EmbeddedSource({len(self._products)} products, {self._num_steps} steps)"

    def __getitem__(self, step: int) -> Loaded:
        """Gather the batch of a step."""
        slots, positions, image_rows = assign_slots(self._products, self._plan, int(step))
        store_rows = self._store_row[image_rows]
        slots.segment[store_rows < 0] = self._plan.product_slots
        embeddings = np.zeros((*store_rows.shape, self._store.dim), np.float32)
        embeddings[store_rows >= 0] = self._store.take(store_rows[store_rows >= 0])
        return Loaded(EmbeddedBatch(embeddings, slots), positions, [])


def room_for(directory: Path, num_images: int, dim: int, dtype: str) -> tuple[int, int]:
    """The bytes that these embeddings take, and the free bytes on the disk of the store."""
    there: Any = directory
    while not there.exists():
        there = there.parent
    return num_images * dim * np.dtype(dtype).itemsize, shutil.disk_usage(there).free
