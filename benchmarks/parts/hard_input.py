"""Every kind of damage at once: does a BSON full of it train, evaluate and export?

    python -m benchmarks.parts.hard_input [--products 20000] [--share 0.02] [--workdir DIR]

Writes products with the embedded sample's drawings, `--share` of them damaged in each of the ways
of `DAMAGE`, and a cut-off last record; trains (small_cnn, one epoch), evaluates and exports with
the real commands, and prints for each kind how many were made, how many of them the list beside the
submission names, and how many have their row. Exits with 1 where one is missing.
"""

import argparse
import csv
import io
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import bson
import numpy as np
from PIL import Image

from product_mil.sources.sample.draw import SampleFiles, write_sample

ROOT = Path(__file__).resolve().parents[2]
Record = dict[str, Any]
Rng = np.random.Generator


class Damaged(NamedTuple):
    """The bytes of a damaged record and what is to be expected of it."""

    data: bytes
    listed: bool = True  # in bad_records.csv
    has_row: bool = True  # in the submission


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _picture(record: Record, change: Callable[[bytes], bytes], rng: Rng) -> bytes:
    """The record with one of its pictures changed."""
    image = record["imgs"][rng.integers(len(record["imgs"]))]
    image["picture"] = change(image["picture"])
    return bson.encode(record)


def _opened(change: Callable[[Image.Image], bytes]) -> Callable[[Record, Rng], Damaged]:
    """A foreign picture, which is decoded and so is no fault."""

    def damage(record: Record, rng: Rng) -> Damaged:
        data = _picture(record, lambda p: change(Image.open(io.BytesIO(p)).convert("RGB")), rng)
        return Damaged(data, listed=False)

    return damage


def _sixteen_bit(image: Image.Image) -> bytes:
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    return _encoded(Image.fromarray(grey), "PNG")


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(image.rotate(90, expand=True), "JPEG", exif=exif, quality=90)


def _cut_and_closed(picture: bytes) -> bytes:
    """A JPEG that Pillow fills up with grey, and says nothing."""
    large = _encoded(Image.open(io.BytesIO(picture)).resize((300, 200)), "JPEG")
    return large[: len(large) // 2] + large[-2:]


def _with_length(data: bytes, length: int) -> Damaged:
    return Damaged(struct.pack("<i", length) + data[4:])


def _with(data: bytes, at: int, new: bytes) -> Damaged:
    return Damaged(data[:at] + new + data[at + len(new) :])


def _hole(record: Record, rng: Rng) -> Damaged:
    """Bytes lost from the middle of the last picture."""
    data = bson.encode(record)
    size = int(rng.integers(10, 400))
    at = len(data) - 20 - size - int(rng.integers(100))
    return Damaged(data[:at] + data[at + size :])


def _without(record: Record, name: str) -> Record:
    return {key: value for key, value in record.items() if key != name}


def _extra_images(record: Record, rng: Rng) -> Damaged:
    record["imgs"] = (record["imgs"] * 8)[: int(rng.integers(5, 12))]
    return Damaged(bson.encode(record))


# How a record, whose pictures are JPEGs, is damaged.
DAMAGE: dict[str, Callable[[Record, Rng], Damaged]] = {
    "record length -1": lambda r, rng: _with_length(bson.encode(r), -1),
    "record length 0": lambda r, rng: _with_length(bson.encode(r), 0),
    "record length past the end": lambda r, rng: _with_length(bson.encode(r), 2**31 - 1),
    "record length into a neighbour": lambda r, rng: _with_length(
        bson.encode(r), len(bson.encode(r)) + int(rng.integers(10, 9000))
    ),
    "record length too short": lambda r, rng: _with_length(
        bson.encode(r), int(rng.integers(5, len(bson.encode(r)) - 1))
    ),
    "record's closing byte": lambda r, rng: _with(bson.encode(r), len(bson.encode(r)) - 1, b"\x07"),
    "bytes lost inside": _hole,
    "length of a picture": lambda r, rng: _with(
        bson.encode(r), bson.encode(r).index(b"picture\0") + 8, b"\xff\xff\xff\x7f"
    ),
    "length of an image": lambda r, rng: _with(
        bson.encode(r), bson.encode(r).index(b"\x030\0") + 3, b"\xff\xff\xff\x7f"
    ),
    "no _id": lambda r, rng: Damaged(bson.encode(_without(r, "_id")), has_row=False),
    "_id is empty": lambda r, rng: Damaged(bson.encode(r | {"_id": ""}), has_row=False),
    "category_id is data": lambda r, rng: Damaged(bson.encode(r | {"category_id": b"12"})),
    "unknown category": lambda r, rng: Damaged(  # no fault in an export
        bson.encode(r | {"category_id": 5}), listed=False
    ),
    "no imgs": lambda r, rng: Damaged(bson.encode(_without(r, "imgs"))),
    "_id is a date": lambda r, rng: Damaged(
        bson.encode(r | {"_id": datetime(2024, 1, 1, tzinfo=UTC)}), has_row=False
    ),
    "category_id is an array": lambda r, rng: Damaged(bson.encode(r | {"category_id": [1]})),
    "imgs is text": lambda r, rng: Damaged(bson.encode(r | {"imgs": "none"})),
    "empty imgs": lambda r, rng: Damaged(bson.encode(r | {"imgs": []})),
    "more images": _extra_images,
    "repeated id": lambda r, rng: Damaged(bson.encode(r) * 2),
    "picture is text": lambda r, rng: Damaged(
        bson.encode(r | {"imgs": [{"picture": "text"}, *r["imgs"][1:]]})
    ),
    "image is an array": lambda r, rng: Damaged(
        bson.encode(r | {"imgs": [*r["imgs"][:-1], [r["imgs"][-1]]]})
    ),
    "picture of zero bytes": lambda r, rng: Damaged(_picture(r, lambda p: b"", rng)),
    "picture is noise": lambda r, rng: Damaged(_picture(r, lambda p: rng.bytes(300), rng)),
    "cut JPEG": lambda r, rng: Damaged(_picture(r, lambda p: p[: len(p) // 2], rng)),
    "cut JPEG of another size": lambda r, rng: Damaged(_picture(r, _cut_and_closed, rng)),
    "pixel bomb": lambda r, rng: Damaged(_picture(r, lambda p: bomb(), rng)),
    "PNG": _opened(lambda image: _encoded(image, "PNG")),
    "progressive JPEG": _opened(lambda image: _encoded(image, "JPEG", progressive=True)),
    "palette PNG, transparent": _opened(
        lambda image: _encoded(image.quantize(64), "PNG", transparency=3)
    ),
    "moving WebP": _opened(
        lambda image: _encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)])
    ),
    "junk behind a JPEG": _opened(lambda image: _encoded(image, "JPEG") + b"\0junk"),
    "one pixel": _opened(lambda image: _encoded(image.resize((1, 1)), "PNG")),
    "GIF": _opened(lambda image: _encoded(image.quantize(64), "GIF")),
    "greyscale JPEG": _opened(lambda image: _encoded(image.convert("L"), "JPEG")),
    "CMYK JPEG": _opened(lambda image: _encoded(image.convert("CMYK"), "JPEG")),
    "16-bit PNG": _opened(_sixteen_bit),
    "other size": _opened(lambda image: _encoded(image.resize((250, 97)), "JPEG")),
    "EXIF rotation": _opened(_turned),
}


class HardFile(NamedTuple):
    """What was written: the kind of each product's damage, and how many records are whole."""

    kinds: dict[int, str]  # by product id
    expected: dict[int, Damaged]
    whole: list[int]  # product ids


def records_of(sample: SampleFiles, count: int) -> Iterator[Record]:
    """The sample's records over and over, each with an id of its own."""
    records = bson.decode_all(sample.train.read_bytes())
    for number in range(count):
        record = records[number % len(records)]
        yield {**record, "_id": 10_000 + 3 * number, "imgs": [dict(i) for i in record["imgs"]]}


CUT_ID = 1  # of the record at the end, which is cut off


def write_hard_file(
    path: Path, sample: SampleFiles, count: int, share: float, seed: int = 0
) -> HardFile:
    """Write `count` products, `share` of them damaged in each of the ways, and a cut-off record."""
    rng = np.random.default_rng(seed)
    kinds = np.full(count, "", object)
    each = max(1, round(count * share))
    order = rng.permutation(count)
    for number, name in enumerate(DAMAGE):
        kinds[order[number * each : (number + 1) * each]] = name
    hard = HardFile({}, {}, [])
    with path.open("wb") as file:
        for record, kind in zip(records_of(sample, count), kinds, strict=True):
            if kind:
                damaged = DAMAGE[kind](record, rng)
                hard.kinds[record["_id"]] = kind
                hard.expected[record["_id"]] = damaged._replace(data=b"")
                file.write(damaged.data)
            else:
                hard.whole.append(record["_id"])
                file.write(bson.encode(record))
        (cut,) = records_of(sample, 1)
        file.write(bson.encode(cut | {"_id": CUT_ID})[:-50])
    return hard


def check(hard: HardFile, submission: Path) -> tuple[list[str], list[str]]:
    """A line for each kind of damage, and what is not as it should be."""
    with submission.open(encoding="utf-8") as file:
        rows = Counter(int(row["_id"]) for row in csv.DictReader(file))
    faults = submission.with_name(submission.name + ".bad_records.csv")
    with faults.open(newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    named = {int(row["product_id"]) for row in listed if row["product_id"]}
    nameless = sum(row["product_id"] == "" for row in listed)
    wrong: list[str] = []
    lines = [f"{'damage':32}{'made':>8}{'listed':>8}{'predicted':>11}"]
    for kind in DAMAGE:
        ids = [number for number, name in hard.kinds.items() if name == kind]
        have_row = [number for number in ids if rows[number] == 1]
        in_list = [number for number in ids if number in named]
        expected = hard.expected[ids[0]]
        num_listed = len(in_list) if expected.has_row else "*"
        lines.append(f"{kind:32}{len(ids):8}{num_listed:>8}{len(have_row):11}")
        if expected.has_row and len(have_row) != len(ids):
            wrong.append(f"{kind}: {len(ids) - len(have_row)} products have no row")
        if expected.has_row and len(in_list) != (len(ids) if expected.listed else 0):
            wrong.append(f"{kind}: {len(in_list)} of {len(ids)} are listed")
    unnamed = sum(not expected.has_row for expected in hard.expected.values())
    if nameless != unnamed:
        wrong.append(f"{nameless} records without id are listed, of {unnamed}")
    lost = [number for number in hard.whole if rows[number] != 1]
    extra = rows.keys() - hard.kinds.keys() - set(hard.whole) - {CUT_ID}
    blamed = named & set(hard.whole)
    lines.append(f"{'none':32}{len(hard.whole):8}{len(blamed):8}{len(hard.whole) - len(lost):11}")
    lines.append(f"* without an id: {nameless} listed of {unnamed}, by byte offset")
    wrong += [f"whole product {number} has no row" for number in lost[:5]]
    wrong += [f"product {number} was never written" for number in sorted(extra)[:5]]
    wrong += [f"whole product {number} is listed" for number in sorted(blamed)[:5]]
    if CUT_ID not in named or rows[CUT_ID] != 1:
        wrong.append("the cut-off record is not listed, or has no row")
    return lines, wrong


def command(*args: object) -> float:
    """Run one of the project's commands; seconds."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, env=environment, check=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.02, help="of the products, for each kind")
    parser.add_argument("--seed", type=int, default=0, help="of which record is damaged how")
    parser.add_argument("--workdir", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.workdir or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        sample = write_sample(root, seed=0, num_products=400)
        data = root / "hard.bson"
        hard = write_hard_file(data, sample, arguments.products, arguments.share, arguments.seed)
        print(
            f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores: {arguments.products} "
            f"products, {arguments.share:.1%} for each of {len(DAMAGE)} kinds of damage, seed "
            f"{arguments.seed}, {data.stat().st_size / 1e6:.0f} MB",
            flush=True,
        )
        run, output = root / "run", root / "submission.csv"
        index_s = command("tools/index_bson.py", data)
        train_s = command(
            "-m", "product_mil.main", "--config=configs/joint.py:smoke", f"--workdir={run}",
            f"--config.data.train={data}", f"--config.data.categories={sample.categories}",
            "--config.data.max_products=0", "--config.data.image_size_px=60",
            "--config.head.epochs=0", "--config.finetune.epochs=1",
            "--config.finetune.images_per_batch=128",
        )  # fmt: skip
        evaluate_s = command(
            "tools/evaluate.py", "--workdir", run, "--data", data, "--faults", root / "faults.csv"
        )
        export_s = command(
            "tools/export_predictions.py", "--workdir", run, "--data", data, "--output", output
        )
        lines, wrong = check(hard, output)
        print("\n".join(lines))
        print(
            f"index {index_s:.0f} s, train {train_s:.0f} s, evaluate {evaluate_s:.0f} s, export "
            f"{export_s:.0f} s"
        )
        if wrong:
            sys.exit("\n".join(wrong))
        print("every fault is listed, every product with an id has its row")


if __name__ == "__main__":
    main()
