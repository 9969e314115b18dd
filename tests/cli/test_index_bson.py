import json
import os
import subprocess
import sys
from pathlib import Path

import bson
from PIL import Image

from tests.sources.of_products import folder

ROOT = Path(__file__).resolve().parents[2]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "index_bson.py"), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def write(path: Path) -> Path:
    pictures = [[b"a", b"b"], [b"a"], [b"c"], []]
    records = [
        bson.encode({"_id": i, "category_id": 5 + i % 2, "imgs": [{"picture": p} for p in shown]})
        for i, shown in enumerate(pictures)
    ]
    path.write_bytes(b"".join(records) + b"\x40\0\0\0cut")
    return path


def test_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson")
    done = run(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    fingerprint = summary.pop("fingerprint")
    assert len(fingerprint) == 32
    size = path.stat().st_size
    cut = "truncated record: 7 bytes are left unread; fetch the file again"
    empty_at = len(bson.encode({"_id": 0, "category_id": 5, "imgs": []}))
    where = {"file": str(path)}
    assert summary == {
        "files": [str(path)],
        "products": 4,
        "images": 4,
        "image_bytes": 4,
        "products_by_num_images": {"0": 1, "1": 2, "2": 1},
        "categories": 2,
        "products_without_category": 0,
        "bad_records": 0,
        "unread_bytes": 7,
        "faults": {"imgs is empty": 1, "truncated record": 1},
        "first_faults": [
            where
            | {"offset_bytes": size - 7 - empty_at, "product_id": 3, "reason": "imgs is empty"},
            where | {"offset_bytes": size - 7, "product_id": None, "reason": cut},
        ],
        "distinct_images": 3,
        "identical_images": 1,
        "images_without_bytes": 0,
        "images_in_most_products": 2,
    }
    assert json.loads(run(path, "--json").stdout) == summary | {"fingerprint": fingerprint}


def test_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson")
    done = run(path)
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "products 4",
        "with 0 images 1 (25.0%)",
        "with 1 image 2 (50.0%)",
        "categories 2",
        "images 4 (0.0 MB)",
        "distinct 3",
        "identical to another 1",
        "in most products one in 2",
        "bad records 0",
        "unread bytes 7",
        "imgs is empty 1",
    ):
        assert line in lines
    assert lines[-1] == (
        f"! {path}, byte {path.stat().st_size - 7}: "
        "truncated record: 7 bytes are left unread; fetch the file again"
    )


def test_files_that_are_no_images(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        Image.new("RGB", (9, 9 + number)).save(path)
    (root / "1000" / "7" / "1.jpg").write_text("hello\n")
    (root / "2000" / "11" / "0.jpg").write_bytes(b"")
    done = run(root)
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "images 7 (0.0 MB)",
        "distinct 6",
        "identical to another 0",
        "without bytes 1",
        "not a readable image 1",
        "the image has no bytes 1",
    ):
        assert line in lines
    assert lines[-2:] == [
        f"! {root}/1000/7/1.jpg, product 7: not a readable image: it is a text that begins with "
        "'hello'",
        f"! {root}/2000/11/0.jpg, product 11: the image has no bytes",
    ]


def test_errors_take_one_line(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    collections = write(tmp_path / "a.bson").read_bytes()
    (tmp_path / "shop.archive").write_bytes(b"\x6d\xe2\x99\x81" + collections)
    for name, message in (
        ("none.bson", "no such file"),
        ("photo.jpg", "is a JPEG image, no dump, folder or table of products"),
        ("shop.archive", "shop.archive ends within a record"),
    ):
        done = run(tmp_path / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bson", "photo.jpg", "shop.archive"]


def test_it_starts_without_jax_or_grain() -> None:
    program = (
        f"import sys, runpy; runpy.run_path({str(ROOT / 'tools' / 'index_bson.py')!r});"
        "print([m for m in ('jax', 'grain', 'flax') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "[]\n"
