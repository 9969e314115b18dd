"""What the pages of docs/guide suppose to lie in the directory where their examples are typed."""

from pathlib import Path

import bson
import pytest

from product_mil.sources.sample.draw import SampleFiles


@pytest.fixture
def run_and_photos(
    trained: Path, sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working directory from now on, with runs/joint and two images of a product."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "joint").symlink_to(trained)
    (tmp_path / "photos").mkdir()
    images = bson.decode_all(sample.train.read_bytes())[0]["imgs"]
    for name, image in zip(("front", "back"), (images[0], images[-1]), strict=True):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(image["picture"])
    monkeypatch.chdir(tmp_path)
    return tmp_path
