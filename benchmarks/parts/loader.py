"""Random access batches against decoding alone, the Kaggle kernels' way, and PyTorch's DataLoader.

    python -m benchmarks.parts.loader [--threads 1,2] [--rounds 5]

The file is drawn in Cdiscount's shape. Floor: `simplejpeg.decode_jpeg` on the bytes of the same
images, in memory, in as many threads. The kernels' way: seek to the record, `bson.decode` it, open
each picture with Pillow, resize where needed, stack, as float32 as Keras' `img_to_array` makes it,
and for comparison kept as uint8. The DataLoader does the latter in as many worker processes
(skipped without PyTorch). Ours makes uint8, and checks each picture's hash; a run begins with
threads, and goes on with as many processes. Grain's own worker processes make our batches too: only
if they are slower does `data/workers.py` earn its lines. The pixels of a batch are compared with
Pillow's, bit by bit.
"""

import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import bson
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.measure import Best, in_turns, machine, parser, report, table
from benchmarks.parts import shaped
from product_mil.data.loader import PixelSource, batches
from product_mil.data.plan import ShuffledPlan
from product_mil.data.products import Products
from product_mil.devices.runtime import keep_freed_memory
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.catalogue import Catalogue

SIZE_PX = 180
SHARDS, IMAGES_PER_BATCH = 4, 256


class Task:
    """The batches of the first steps of an epoch, made in different ways."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.catalogue: Catalogue = open_catalogue(path)
        n = self.catalogue.num_products
        self.products = Products(self.catalogue, np.arange(n), np.zeros(n, np.int32), 4)
        self.plan = ShuffledPlan(
            self.products.num_images,
            shards=SHARDS,
            image_slots=IMAGES_PER_BATCH // SHARDS,
            seed=0,
        )
        self.rows = [np.concatenate(self.plan.positions(step)) for step in range(steps)]
        self.records = [
            [(int(self.catalogue.offset_bytes[r]), int(self.catalogue.length_bytes[r])) for r in b]
            for b in self.rows
        ]
        with path.open("rb") as file:
            self.pictures = [
                [image["picture"] for record in batch for image in _record(file, *record)["imgs"]]
                for batch in self.records
            ]
        self.images = sum(map(len, self.pictures))
        # One for all rounds: only the first few batches of a run fault their memory in.
        self.source, self.early_source = self._source(0), self._source(sys.maxsize)

    def _source(self, images_before_processes: int) -> PixelSource:
        return PixelSource(
            self.products,
            self.plan,
            image_size_px=SIZE_PX,
            num_steps=self.steps,
            images_before_processes=images_before_processes,
        )

    def ours(self, source: PixelSource, threads: int) -> None:
        for _ in batches(source, threads=threads):
            pass

    def decode_only(self, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(_decode_all, self.pictures):
                pass

    def kernels_way(self, dtype: type, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda batch: stack(self.path, batch, dtype), self.records):
                pass

    def data_loader(self, threads: int) -> Callable[[int], None]:
        """Its workers stay from round to round, as ours do."""
        import torch  # pyright: ignore[reportMissingImports]

        loader = torch.utils.data.DataLoader(
            _Records(self.path, self.records),
            batch_size=None,
            num_workers=threads,
            persistent_workers=True,
        )

        def run(_: int) -> None:
            for _ in loader:
                pass

        return run

    def in_grain_processes(self, processes: int, rounds: int) -> Best:
        """Our batches in Grain's own worker processes, which stay from round to round.

        They work ahead by a few batches: those are taken before the clock starts.
        """
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for flags of its own
        ahead = 2
        source: Any = self.early_source
        forever = grain.MapDataset.source(source).repeat()
        read = forever.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead))
        loaded = iter(read.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes)))
        best_s = float("inf")
        for _ in range(rounds + 1):  # the first one starts the processes
            for _ in range((ahead + 2) * processes):
                next(loaded)
            started = time.perf_counter()
            for _ in range(self.steps):
                next(loaded)
            best_s = min(best_s, time.perf_counter() - started)
        loaded.close()
        return Best(best_s, 0.0)

    def check_pixels(self) -> int:
        """Images of the first step, equal to Pillow's."""
        loaded: Any = self.source[0]
        found = loaded.batch.images[loaded.batch.slots.segment < self.plan.product_slots]
        wanted = np.stack([_pillow(picture) for picture in self.pictures[0]])
        np.testing.assert_array_equal(found, wanted)
        return len(found)


class _Records:
    """A data set for PyTorch: item i is the batch of step i."""

    def __init__(self, path: Path, records: list[list[tuple[int, int]]]) -> None:
        self._path, self._records = path, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, step: int) -> Any:
        import torch  # pyright: ignore[reportMissingImports]

        return torch.from_numpy(stack(self._path, self._records[step], np.uint8))


def stack(path: Path, records: list[tuple[int, int]], dtype: type) -> np.ndarray:
    with path.open("rb") as file:
        found = [_record(file, *record)["imgs"] for record in records]
    pictures = [image["picture"] for image in itertools.chain(*found)]
    batch = np.zeros((len(pictures), SIZE_PX, SIZE_PX, 3), dtype)
    for pixels, picture in zip(batch, pictures, strict=True):
        pixels[...] = np.asarray(_pillow(picture), dtype)
    return batch


def _record(file: Any, offset: int, length: int) -> dict[str, Any]:
    file.seek(offset)
    return bson.decode(file.read(length))


def _pillow(picture: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if image.size != (SIZE_PX, SIZE_PX):
        image = image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _decode_all(pictures: list[bytes]) -> None:
    buffer = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    for picture in pictures:
        simplejpeg.decode_jpeg(picture, "RGB", buffer=buffer)


def has_torch() -> bool:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return bool(torch.__version__)


def main() -> None:
    arguments = parser("Random access batches against decoding alone and the usual ways")
    arguments.add_argument("--threads", default="1,2", help="of these, in turn")
    arguments.add_argument("--steps", type=int, default=16, help="batches a round")
    arguments.add_argument("--kept", action="store_true", help="glibc keeps memory, for all sides")
    args = arguments.parse_args()
    if args.kept:
        keep_freed_memory()
    steps = 2 if args.smoke else args.steps
    rows: list[list[str]] = []
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "data.bson"
        shaped.write(path, 1_000 if args.smoke else 40_000)
        task = Task(path, steps)
        checked = task.check_pixels()
        for threads in map(int, args.threads.split(",")):
            ways: dict[str, Callable[[int], None]] = {
                "simplejpeg alone (floor)": task.decode_only,
                "ours": partial(task.ours, task.source),
                "ours, as a run begins": partial(task.ours, task.early_source),
                "the kernels' way": partial(task.kernels_way, np.float32),
                "the same in uint8": partial(task.kernels_way, np.uint8),
            }
            if has_torch():
                ways["PyTorch's DataLoader"] = task.data_loader(threads)
            best = in_turns(
                {name: partial(way, threads) for name, way in ways.items()}, args.rounds
            )
            best["ours, in Grain's processes"] = task.in_grain_processes(threads, args.rounds)
            rows += [_row(threads, name, b, best, task.images) for name, b in best.items()]
            floor, kernels = best["simplejpeg alone (floor)"], best["the kernels' way"]
            ours, in_threads = best["ours"], best["ours, as a run begins"]
            ratios |= {
                f"{threads} threads, of the floor, wall": floor.wall_s / ours.wall_s,
                f"{threads} threads, times the kernels' way, wall": kernels.wall_s / ours.wall_s,
                f"{threads} threads, of the floor, CPU": floor.cpu_s / in_threads.cpu_s,
            }
    header = ["threads", "", "wall", "CPU", "images/s", "of the floor, wall", "of the floor, CPU"]
    text = table(header, rows) + f"\n\n{checked} images of a batch are bit-equal to Pillow's"
    if not has_torch():
        text += "\nPyTorch is not installed: its DataLoader was not measured"
    about = machine("simplejpeg", "pillow", "pymongo", "grain", "numpy", "torch")
    report(args, f"{about}; {task.images} images of {SIZE_PX} px a round", text, ratios)


def _row(threads: int, name: str, own: Best, best: dict[str, Best], images: int) -> list[str]:
    floor = best["simplejpeg alone (floor)"]
    # The CPU time of other processes is not ours to see.
    in_processes = name == "ours" or name.startswith("PyTorch") or "processes" in name
    return [
        str(threads),
        name,
        f"{own.wall_s:.3f} s",
        "" if in_processes else f"{own.cpu_s:.3f} s",
        f"{images / own.wall_s:,.0f}",
        f"{floor.wall_s / own.wall_s:.2f}",
        "" if in_processes else f"{floor.cpu_s / own.cpu_s:.2f}",
    ]


if __name__ == "__main__":
    main()
