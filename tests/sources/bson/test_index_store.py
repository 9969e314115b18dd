"""Where an index lies, when it is made again, and what is left where it cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bson
import pytest

from product_mil.errors import UserError
from product_mil.files.outputs import DRAFT_PREFIX
from product_mil.sources.bson import index_store, scan
from product_mil.sources.bson.index import build_or_load_index, open_catalogue
from tests.sources.bson.dumps import (
    assert_holds,
    product,
    random_products,
    write,
)


def test_an_index_is_used_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []
    build = index_store._read
    monkeypatch.setattr(index_store, "_read", lambda *a, **k: builds.append(a) or build(*a, **k))
    path = write(tmp_path / "a.bson", product(1, b"x"))
    first = build_or_load_index(path)
    assert build_or_load_index(path).fingerprint == first.fingerprint
    assert len(builds) == 1
    write(path, product(2, b"x"))
    changed = build_or_load_index(path)
    assert changed.product_id.tolist() == [2]
    assert changed.fingerprint != first.fingerprint
    os.utime(path, ns=(1, 1))
    assert build_or_load_index(path).fingerprint == changed.fingerprint  # the same contents
    assert len(builds) == 3
    assert len(list((tmp_path / "a.bson.index").iterdir())) == 1  # the stale ones are gone


def test_an_index_with_hashes_serves_without_but_not_the_other_way(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    assert build_or_load_index(path, hash_images=False).image_hash is None
    assert build_or_load_index(path).image_hash is not None
    assert build_or_load_index(path, hash_images=False).image_hash is not None


@pytest.mark.parametrize("name", ["product_id.npy", "image_hash.npy", "index.json"])
def test_a_damaged_index_is_rebuilt(tmp_path: Path, name: str) -> None:
    products = random_products(0, 20)
    path = write(tmp_path / "a.bson", *products)
    directory = build_or_load_index(path).directory
    whole = (directory / name).read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", whole[:-3] + b"\xff\xff\xff", None):
        (directory / name).unlink()
        if damaged is not None:
            (directory / name).write_bytes(damaged)
        assert_holds(open_catalogue(path), products)
        assert (directory / name).read_bytes() == whole


def test_an_index_of_another_format_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    old = build_or_load_index(path).directory
    monkeypatch.setattr("product_mil.sources.bson.index.FORMAT", 99)
    assert build_or_load_index(path).directory != old
    assert not old.exists()


def test_where_the_place_beside_the_file_is_read_only_the_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    (tmp_path / "a.bson.index").write_text("a file, so that no directory can be made here")
    cache = tmp_path / "cache"
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(cache))
    index = build_or_load_index(path)
    assert cache in index.directory.parents
    assert build_or_load_index(path).directory == index.directory


OTHER_PROCESS = """
import multiprocessing, pickle, sys
from pathlib import Path
from product_mil.sources.bson.index import open_catalogue

def size_there(catalogue):
    return catalogue.num_products

if __name__ == "__main__":
    first, again = open_catalogue(sys.argv[1]), open_catalogue(sys.argv[1])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sizes = pool.map(size_there, [first])
    place = first.indexes[0].directory
    print(sizes, again.indexes[0].directory == place, place.is_dir(), place, sep="\\n")
"""


@pytest.mark.parametrize("usual", [True, False])
def test_where_nothing_can_be_written_the_index_is_temporary(tmp_path: Path, usual: bool) -> None:
    """One warning, the same columns, used again, open to other processes, gone at the end."""
    path = write(tmp_path / "a.bson", *random_products(0, 20))
    (tmp_path / "a.bson.index").write_text("a file, so that no directory can be made here")
    (tmp_path / "blocked").write_text("")
    (tmp_path / "temporary").mkdir()
    program = tmp_path / "program.py"
    program.write_text(OTHER_PROCESS)
    temporary = tmp_path / ("temporary" if usual else "blocked")
    done = subprocess.run(
        [sys.executable, str(program), str(path)],
        env={
            **os.environ,
            "TMPDIR": str(temporary),
            "PRODUCT_MIL_CACHE": str(tmp_path / "blocked"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    sizes, same, there, place = done.stdout.splitlines()
    assert (sizes, same, there) == ("[20]", "True", "True")
    assert (temporary in Path(place).parents) == usual
    assert not Path(place).exists()
    assert done.stderr.count("\n") == 1
    for part in (f"the index of {path} lies in a temporary directory", "PRODUCT_MIL_CACHE"):
        assert part in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("a.bson", "a.bson.index", "blocked", "program.py", "temporary")
    ]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_lies_in_the_folder_of_indexes_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    folder = tmp_path / "a.bson.index"
    old = build_or_load_index(path).directory
    (folder / "notes").mkdir()
    for name in ("notes/mine.txt", "v1.txt", "draft-of-my-thesis"):
        (folder / name).write_text("mine")
    (folder / "v9-mine").mkdir()
    (folder / ("v1-" + "0" * 32)).mkdir()
    (folder / ("v2-" + "a" * 32 + "-unhashed")).mkdir()
    (folder / f"{DRAFT_PREFIX}files-of-a-killed-build").mkdir()
    new = build_or_load_index(write(path, product(2, b"x"))).directory
    assert not old.exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["notes", "v1.txt", "v9-mine", "draft-of-my-thesis", new.name]
    )
    assert (folder / "notes" / "mine.txt").read_text() == "mine"


def test_nothing_is_written_before_the_first_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bson"
    others = [bson.encode({"_id": i + 0.5, "imgs": []}) for i in range(50)]
    path.write_bytes(b"".join(others) + bson.encode(product(7, b"x")))
    real, seen = index_store.scan, []

    def watched(*args: object, **kwargs: object) -> object:
        for rows in real(*args, **kwargs):  # pyright: ignore[reportArgumentType]
            seen.append((len(rows.product_id), sorted(p.name for p in tmp_path.iterdir())))
            yield rows

    monkeypatch.setattr(index_store, "scan", watched)
    monkeypatch.setattr(scan, "_PIECE_BYTES", 400)
    monkeypatch.setattr(scan, "_CHUNK_BYTES", 400)
    index = build_or_load_index(path)
    assert index.product_id.tolist() == [7]
    assert index.fault_counts == {"no usable _id": 50}
    assert len(seen) > 3
    assert all(not products and names == ["a.bson"] for products, names in seen[:-1])


@pytest.mark.parametrize("error", [UserError("stop"), OSError(5, "Input/output error")])
def test_a_build_that_fails_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(index_store, "later_duplicates", failing)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("product_mil.sources.bson.index._temporary", {})
    monkeypatch.setattr("product_mil.sources.bson.index._MEMORY", str(tmp_path / "blocked"))
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache" / "deep"))
    with pytest.raises(UserError, match=r"stop|no place to write the index of .*Input/output"):
        build_or_load_index(path)
    left = [p for p in tmp_path.rglob("*") if p.parent != tmp_path / "temporary"]
    assert sorted(p.name for p in left) == ["a.bson", "temporary"]


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "a.bson", product(1, b"x"))
    monkeypatch.setattr(index_store._ColumnFile, "append", full)
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="No space left on device"):
        build_or_load_index(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    real = index_store.scan

    def growing(*args: object, **kwargs: object) -> object:
        yield from real(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(index_store, "scan", growing)
    with pytest.raises(UserError, match="changed while it was read"):
        build_or_load_index(path)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.999])
def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """At once, be there gigabytes that are gone."""
    path = write(tmp_path / "a.bson", *[product(i, b"x" * 3000) for i in range(99)])
    size_bytes = path.stat().st_size
    os.truncate(path, 100 << 30)
    real = index_store.scan

    def shrinking(*args: object, **kwargs: object) -> object:
        os.truncate(path, int(share * size_bytes))
        yield from real(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(index_store, "scan", shrinking)
    with pytest.raises(UserError, match="changed while it was read"):
        build_or_load_index(path)


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", *random_products(0, 2000))
    program = (
        "import sys; from pathlib import Path;"
        "from product_mil.sources.bson.index import build_or_load_index as b;"
        "print(b(Path(sys.argv[1])).fingerprint)"
    )
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed == {build_or_load_index(path).fingerprint + "\n"}
    assert len(list((tmp_path / "a.bson.index").iterdir())) == 1


def test_the_description_is_plain_json(tmp_path: Path) -> None:
    index = build_or_load_index(write(tmp_path / "a.bson", product(5), product(6, b"x")))
    description = json.loads((index.directory / "index.json").read_text())
    assert description["faults"] == [[0, 5, "imgs is empty", None]]
