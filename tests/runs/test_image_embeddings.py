"""Embeddings of images are not begun where the disk has no room for them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from product_mil.errors import UserError
from product_mil.runs import image_embeddings


def test_a_full_disk_is_reported_before_a_map_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = SimpleNamespace(free=2000)
    monkeypatch.setattr(image_embeddings.shutil, "disk_usage", lambda _: room)
    image_embeddings._refuse_full_disk(tmp_path, 1000)
    with pytest.raises(UserError, match="make room"):
        image_embeddings._refuse_full_disk(tmp_path, 1001)
