"""What `config.model.weights` means."""

from pathlib import Path

import pytest

from product_mil.config import ModelConfig
from product_mil.config.start import FromFile, FromRun, Published, Random


def test_each_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "net.h5").touch()
    for text, meaning in (
        ("", Random()),
        ("imagenet", Published()),
        (str(tmp_path / "run"), FromRun(tmp_path / "run")),
        ("~/run", FromRun(tmp_path / "run")),
        ("~/net.h5", FromFile(tmp_path / "net.h5")),
        ("nowhere.h5", FromFile(Path("nowhere.h5"))),
    ):
        assert ModelConfig(weights=text).start == meaning
