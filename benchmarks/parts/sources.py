"""A folder of images and Parquet with images inside, beside a BSON file of the same products.

    python -m benchmarks.parts.sources [--products 5000] [--rounds 5]

The products are drawn in Cdiscount's shape, the files are in a warm cache of the system. The first
start lists, reads and hashes everything (and copies Parquet's images), the second one finds what
the first has kept. Then images are read in random order and decoded, in one thread. Ratios are the
time of the BSON file to that of the other source.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bson
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts import shaped
from product_mil.data.decode import decode_images
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.opening import open_catalogue

SIZE_PX = 180
KINDS = ("BSON", "folder", "Parquet")
STARTS = ("first start", "second start")
READ = "read and decode"


def write_folder(records: list[dict], root: Path) -> None:
    for record in records:
        place = root / str(record["category_id"]) / str(record["_id"])
        place.mkdir(parents=True)
        for number, image in enumerate(record["imgs"]):
            (place / f"{number}.jpg").write_bytes(image["picture"])


def write_parquet(records: list[dict], path: Path) -> None:
    columns = {
        "_id": [record["_id"] for record in records],
        "category_id": [record["category_id"] for record in records],
        "images": [[image["picture"] for image in record["imgs"]] for record in records],
    }
    pq.write_table(pa.table(columns), path, row_group_size=1000)


def first_start(path: Path, cache: Path) -> None:
    shutil.rmtree(path.with_name(path.name + ".index"), ignore_errors=True)
    shutil.rmtree(cache / "sources", ignore_errors=True)
    open_catalogue(path)


def read(catalogue: Catalogue, rows: np.ndarray) -> None:
    targets = np.zeros((64, SIZE_PX, SIZE_PX, 3), np.uint8)
    for at in range(0, len(rows), 64):
        some = rows[at : at + 64]
        assert not decode_images(catalogue.read(some), targets[: len(some)])


def main() -> None:
    arguments = parser("A folder and Parquet beside BSON")
    arguments.add_argument("--products", type=int, default=5_000)
    args = arguments.parse_args()
    products = 200 if args.smoke else args.products
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        cache = root / "cache"
        os.environ["PRODUCT_MIL_CACHE"] = str(cache)
        paths = [root / "data.bson", root / "photos", root / "data.parquet"]
        images, size = shaped.write(paths[0], products)
        records = bson.decode_all(paths[0].read_bytes())
        write_folder(records, paths[1])
        write_parquet(records, paths[2])
        rows = np.random.default_rng(0).permutation(images)[:4096]
        best = {}
        for what, of in (
            (STARTS[0], lambda path: partial(first_start, path, cache)),
            (STARTS[1], lambda path: partial(open_catalogue, path)),
            (READ, lambda path: partial(read, open_catalogue(path), rows)),
        ):
            cases: dict[str, Callable[[], object]] = {
                kind: of(path) for kind, path in zip(KINDS, paths, strict=True)
            }
            for kind, found in in_turns(cases, args.rounds).items():
                best[what, kind] = found
    lines = [
        [
            f"{what}, {kind}",
            f"{found.wall_s:.3f} s",
            f"{found.cpu_s:.3f} s",
            f"{best[what, KINDS[0]].wall_s / found.wall_s:.2f}",
            f"{best[what, KINDS[0]].cpu_s / found.cpu_s:.2f}",
        ]
        for (what, kind), found in best.items()
    ]
    text = table(["", "wall", "CPU", "speed to BSON's, wall", "CPU"], lines)
    # First starts are too short for a ratio that one would notice a change in.
    ratios = {
        f"{kind}, {READ}, CPU": best[READ, KINDS[0]].cpu_s / best[READ, kind].cpu_s
        for kind in KINDS[1:]
    }
    about = machine("simplejpeg", "pyarrow", "xxhash")
    what = f"{products:,} products, {images:,} images, {size / 1e6:.0f} MB"
    report(args, f"{about}; {what}; {len(rows):,} images read", text, ratios)


if __name__ == "__main__":
    main()
