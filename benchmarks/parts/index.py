"""Index a BSON file against `bson.decode_file_iter`, and memory an image.

    python -m benchmarks.parts.index [--products 100000] [--rounds 5]

The file is drawn in Cdiscount's shape and read from a warm cache. An index is built from nothing
each time, column files written, hashed and read back included.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bson

from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts import shaped
from product_mil.sources.bson.index import build_or_load_index

_MEMORY = """
import sys
from pathlib import Path
from product_mil.sources.bson.index import build_or_load_index
build_or_load_index(Path(sys.argv[1]))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
"""


def read(path: Path) -> None:
    buffer = bytearray(512 << 10)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def decode(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in bson.decode_file_iter(file))


def index(path: Path, *, hash_images: bool) -> None:
    shutil.rmtree(path.with_name(path.name + ".index"), ignore_errors=True)
    build_or_load_index(path, hash_images=hash_images)


def peak_bytes(path: Path) -> int:
    """Peak memory of a process that indexes the file."""
    shutil.rmtree(path.with_name(path.name + ".index"), ignore_errors=True)
    command = [sys.executable, "-c", _MEMORY, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    arguments = parser("Index a BSON file against bson.decode_file_iter")
    arguments.add_argument("--products", type=int, default=100_000)
    args = arguments.parse_args()
    products = 2_000 if args.smoke else args.products
    with tempfile.TemporaryDirectory() as directory:
        path, small = Path(directory) / "data.bson", Path(directory) / "small.bson"
        images, size = shaped.write(path, products)
        few, _ = shaped.write(small, products // 10)
        best = in_turns(
            {
                "reading the file (floor)": lambda: read(path),
                "bson.decode_file_iter": lambda: decode(path),
                "index without hashes": lambda: index(path, hash_images=False),
                "index with hashes": lambda: index(path, hash_images=True),
            },
            args.rounds,
        )
        grown = (peak_bytes(path) - peak_bytes(small)) / (images - few)
    rival = best["bson.decode_file_iter"]
    rows = [
        [
            name,
            f"{b.wall_s:.3f} s",
            f"{b.cpu_s:.3f} s",
            f"{products / b.wall_s:,.0f}",
            f"{rival.wall_s / b.wall_s:.2f}",
            f"{rival.cpu_s / b.cpu_s:.2f}",
        ]
        for name, b in best.items()
    ]
    text = table(
        ["", "wall", "CPU", "products/s", "times the rival, wall", "times the rival, CPU"], rows
    )
    text += f"\n\npeak memory grows by {grown:.0f} bytes an image ({few:,} to {images:,} images)"
    ratios = {
        f"{short}, {clock}": getattr(rival, field) / getattr(best[f"index {short}"], field)
        for short in ("without hashes", "with hashes")
        for clock, field in (("wall", "wall_s"), ("CPU", "cpu_s"))
    }
    about = machine("pymongo", "numpy", "xxhash")
    report(args, f"{about}; {products:,} products, {size / 1e6:.0f} MB", text, ratios)


if __name__ == "__main__":
    main()
