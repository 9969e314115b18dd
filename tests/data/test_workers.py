"""Images decoded by other processes are the images that this one decodes."""

import errno
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from product_mil.data import loader, workers
from product_mil.data.loader import PixelSource, batches
from product_mil.data.plan import ShuffledPlan
from tests.data.test_loader import (
    COUNTS,
    SIZE_PX,
    assert_equal,
    picture,
    products_of,
    source_of,
    write,
)  # fmt: skip

DAMAGED = {(3, 0): b"", (5, 0): b"\xff\xd8 no more", (7, 0): picture(7, 0)[:300]}


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[workers.Workers]:
    """Workers of this test alone."""
    made = workers.Workers()
    monkeypatch.setattr(loader, "process_workers", lambda: made)
    yield made
    made.close()


def process_source(path: Path, steps: int = 12) -> PixelSource:
    """One that leaves all decoding to processes, as every thread but one does."""
    products = products_of(path)
    plan = ShuffledPlan(products.num_images, shards=2, image_slots=8, seed=0)
    source = PixelSource(
        products, plan, image_size_px=SIZE_PX, num_steps=steps, images_before_processes=0
    )
    assert source._decoder._thread_decodes.acquire(blocking=False)
    return source


def test_a_process_passes_remarks_on(tmp_path: Path, own: workers.Workers) -> None:
    path = write(tmp_path / "train.bson", {(3, 0): picture(3, 0)[:-2], (5, 0): b"\xff\xd8"})
    by_process, by_thread = process_source(path), source_of(products_of(path))
    faults = []
    for step in range(by_thread._plan.num_steps):
        assert_equal(by_process[step], by_thread[step])
        faults += by_process[step].faults
    assert sorted((fault.image_index, fault.is_remark) for fault in faults) == [
        (0, False),
        (0, True),
    ]
    assert own.live
    assert len(living(own)) == 1


def living(made: workers.Workers) -> list[Any]:
    """The idle processes, which stay idle."""
    found = [made._idle.get() for _ in range(made._idle.qsize())]
    for worker in found:
        made._idle.put(worker)
    return found


def is_shared(made: workers.Workers, loaded: Any) -> bool:
    return loaded.batch.images.ctypes.data in made.memory._regions


def test_pixels_and_faults_are_the_same(tmp_path: Path, own: workers.Workers) -> None:
    path = write(tmp_path / "train.bson", DAMAGED)
    by_thread, by_process = source_of(products_of(path)), process_source(path)
    num_faults = 0
    for step in range(12):
        loaded: Any = by_process[step]
        assert is_shared(own, loaded)
        assert_equal(loaded, by_thread[step])
        assert loaded.faults == by_thread[step].faults
        num_faults += len(loaded.faults)
    assert num_faults > 0
    assert len(living(own)) == 1
    assert own.live


def test_threads_each_have_a_process_but_one(tmp_path: Path, own: workers.Workers) -> None:
    path = write(tmp_path / "train.bson")
    products = products_of(path)
    plan = ShuffledPlan(products.num_images, shards=2, image_slots=8, seed=0)
    source = PixelSource(
        products, plan, image_size_px=SIZE_PX, num_steps=40, images_before_processes=100
    )
    held: list[Any] = list(batches(source, threads=3))
    for step, loaded in enumerate(held):
        assert_equal(loaded, source_of(products, 40)[step])
    assert not is_shared(own, held[0])
    assert len(living(own)) <= 2


def test_processes_that_have_started_decode_from_the_first_image_on(
    tmp_path: Path, own: workers.Workers
) -> None:
    """As for the next one of many files; starting them again would not pay at once."""
    path = write(tmp_path / "train.bson")
    products = products_of(path)
    expected = source_of(products)[0]
    for has_started in (False, True):
        later = source_of(products)
        assert later._decoder._thread_decodes.acquire(blocking=False)
        loaded = later[0]
        assert_equal(loaded, expected)
        assert is_shared(own, loaded) == has_started
        process_source(path)[0]
    assert len(living(own)) == 1


def test_a_changed_and_a_cut_file_are_reported(tmp_path: Path, own: workers.Workers) -> None:
    path = write(tmp_path / "train.bson")
    source = process_source(path)
    catalogue = products_of(path).catalogue
    with path.open("r+b") as file:
        file.seek(catalogue.place_of_image(0).offset_bytes or 0)
        file.write(b"other")
    os.truncate(path, catalogue.place_of_image(len(COUNTS)).offset_bytes or 0)
    faults = [fault for step in range(source._plan.num_steps) for fault in source[step].faults]
    reasons = "\n".join(fault.reason for fault in faults)
    assert "other bytes than were indexed" in reasons
    assert "changed since it was indexed" in reasons
    assert len(living(own)) == 1


def test_a_new_file_of_the_same_name_is_read_anew(tmp_path: Path, own: workers.Workers) -> None:
    """A process keeps files open; another source must not read the old one."""
    path = write(tmp_path / "train.bson")
    process_source(path)[0]
    path.unlink()
    write(path, {(i, 0): picture(i, 3) for i in range(len(COUNTS))})
    assert_equal(process_source(path)[0], source_of(products_of(path))[0])
    assert process_source(path)[0].faults == []


def test_a_process_that_dies_costs_nothing_but_speed(
    tmp_path: Path, own: workers.Workers, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "train.bson", DAMAGED)
    by_thread, by_process = source_of(products_of(path)), process_source(path)
    assert_equal(by_process[0], by_thread[0])
    (worker,) = living(own)
    worker._process.kill()
    worker._process.wait()
    for step in range(1, 6):
        assert_equal(by_process[step], by_thread[step])
        assert by_process[step].faults == by_thread[step].faults
    messages = [record.getMessage() for record in caplog.records]
    assert len([text for text in messages if "threads decode from now on" in text]) == 1
    assert living(own) == []


def test_a_process_that_may_open_no_file_leaves_it_to_the_thread(
    tmp_path: Path, own: workers.Workers
) -> None:
    path = write(tmp_path / "train.bson")
    process_source(path)[0]
    (worker,) = living(own)
    resource.prlimit(worker._process.pid, resource.RLIMIT_NOFILE, (3, 3))
    assert_equal(process_source(path)[0], source_of(products_of(path))[0])
    assert living(own) == [worker]
    assert own.live


def test_where_no_process_starts_threads_decode(
    tmp_path: Path, own: workers.Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    path = write(tmp_path / "train.bson")
    assert_equal(process_source(path)[0], source_of(products_of(path))[0])


def test_where_the_system_has_no_such_memory_threads_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    workers.process_workers.cache_clear()
    path = write(tmp_path / "train.bson")
    assert_equal(process_source(path)[0], source_of(products_of(path))[0])
    assert workers.process_workers() is None
    workers.process_workers.cache_clear()


def test_where_no_memory_is_left_to_share_threads_decode(
    tmp_path: Path, own: workers.Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "train.bson")
    by_thread, by_process = source_of(products_of(path)), process_source(path)
    held = by_process[0]

    def full(*_: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "ftruncate", full)
    assert_equal(by_process[1], by_thread[1])
    assert_equal(held, by_thread[0])
    assert own.live


def test_a_process_imports_from_where_its_parent_does(
    tmp_path: Path, own: workers.Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories with a colon too, which no PYTHONPATH can hold."""
    root = Path(workers.__file__).parents[2]
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b/product_mil").symlink_to(root / "product_mil")
    (tmp_path / "a:b/simplejpeg.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'x').close()\n"
        "import sys; del sys.path[0], sys.modules['simplejpeg']; import simplejpeg"
    )
    paths = [str(tmp_path / "a:b"), *(path for path in sys.path if Path(path).resolve() != root)]
    monkeypatch.setattr(sys, "path", paths)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    path = write(tmp_path / "train.bson")
    assert_equal(process_source(path)[0], source_of(products_of(path))[0])
    assert own.live
    assert (tmp_path / "imported").exists()


SCRIPT = """
import sys, time
import numpy as np
from pathlib import Path
from tests.data.test_workers import process_source
from product_mil.data.workers import process_workers
source = process_source(Path(sys.argv[1]))
source[0]
workers = process_workers()
worker = workers._idle.get()
workers._idle.put(worker)
print(worker._process.pid, flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "train.bson")
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [*command, "wait" if end == "kill" else "go"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = int(process.stdout.readline())
        if end == "kill":
            group = os.getpgid(pid)
            process.kill()
            assert group == pid  # Ctrl-C does not reach it: the parent decides
        process.wait(60)
        assert process.stderr.read() == ""
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_padding_is_black_in_memory_that_is_used_again(
    tmp_path: Path, own: workers.Workers
) -> None:
    source = process_source(write(tmp_path / "train.bson"), 40)
    for step in range(40):
        loaded: Any = source[step]
        padding = ~loaded.batch.slots.is_image
        assert not np.asarray(loaded.batch.images)[padding].any()
    assert source._decoder._processes is not None
    assert (
        len(source._decoder._processes._buffers) == 2
    )  # the loop holds one while the next is decoded
