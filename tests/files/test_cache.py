"""A cache that cannot be written costs time, never the run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest

import product_mil
from product_mil.errors import UserError
from product_mil.files.cache import (
    cache_root,
    can_be_written,
    temporary_cache,
    why_not_writable,
    writable_cache,
)

UNWRITABLE = ["file", "file/below", "/proc/product_mil", "/dev/null", "x" * 300]


def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> Path:
    (tmp_path / "file").write_text("mine")
    root = tmp_path / name
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(root))
    return root


def test_the_chosen_one_is_made_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = chosen(monkeypatch, tmp_path, "new [1]/cache")
    assert cache_root() == root
    assert not root.exists()
    assert writable_cache("weights") == root / "weights"
    assert writable_cache() == root
    assert [path.name for path in root.rglob("*")] == ["weights"]


@pytest.mark.parametrize("name", UNWRITABLE)
def test_another_place_and_one_warning(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = chosen(monkeypatch, tmp_path, name)
    assert not can_be_written("xla")
    places = [writable_cache("embeddings"), writable_cache("weights"), writable_cache()]
    temporary = temporary_cache()
    assert places == [temporary / "embeddings", temporary / "weights", temporary]
    for place in places:
        assert why_not_writable(place) is None
    (record,) = caplog.records
    assert str(root) in record.getMessage()
    assert "PRODUCT_MIL_CACHE" in record.getMessage()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files still find room there."""
    chosen(monkeypatch, tmp_path, "cache")

    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, content: bytes) -> None:
            if len(content) > 4096:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    assert why_not_writable(tmp_path) == "No space left on device"
    assert not can_be_written()


def test_no_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def homeless(*_: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("PRODUCT_MIL_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_dir", homeless)
    assert cache_root() == temporary_cache()
    assert writable_cache("weights") == temporary_cache() / "weights"
    assert "no home directory" in caplog.text


def test_no_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch, tmp_path, "file")

    def none(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    temporary_cache.cache_clear()
    monkeypatch.setattr(tempfile, "mkdtemp", none)
    with pytest.raises(UserError, match="set PRODUCT_MIL_CACHE or TMPDIR") as caught:
        writable_cache("weights")
    assert "\n" not in str(caught.value)
    assert not can_be_written("weights")


USE = """
from product_mil.files.cache import writable_cache
from product_mil.sources.sample.draw import ensure_sample
import product_mil.sources.sample.draw as sample
draw = sample.write_sample
sample.write_sample = lambda directory, **_: draw(directory, seed=0, num_products=5)
files = ensure_sample(0)
print(files.train, files.train.stat().st_size)
"""


def test_the_sample_is_drawn_in_a_temporary_cache_and_removed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(product_mil.__file__).parents[1]),
        "PRODUCT_MIL_CACHE": str(tmp_path / "file"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, check=True, env=environment
    )
    path, size = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert Path(path).is_relative_to(tmp_path / "tmp")
    assert int(size) > 1000
    assert done.stderr.count("PRODUCT_MIL_CACHE") == 1
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "tmp").iterdir())


def test_a_user_without_a_name(tmp_path: Path) -> None:
    """Neither HOME nor an entry in the user database, as in many containers."""
    if os.getuid() != 0:
        pytest.skip("only root can become such a user")
    code = (
        "import os; from product_mil.files.cache import cache_root, why_not_writable; "
        "os.setuid(54321); "
        "print(cache_root()); print(why_not_writable(cache_root()))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment.pop("PRODUCT_MIL_CACHE", None)
    environment["PYTHONPATH"] = str(Path(product_mil.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    root, reason = done.stdout.splitlines()
    assert reason == "None"
    assert Path(root).name.startswith("product_mil-")
    assert not Path(root).exists()
    assert "no home directory" in done.stderr
