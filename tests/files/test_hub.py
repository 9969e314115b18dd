"""Names of models that lie in the cache of the hub; tests/api/test_hub.py downloads some."""

from pathlib import Path

import pytest

from product_mil.files.hub import model_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/joint", "joint"),
        ("hub/models--shop--joint/snapshots/0a1b", "shop/joint"),
        ("hub/models--shop--joint--small/snapshots/0a1b", "shop/joint--small"),
        ("snapshots/joint", "joint"),
    ],
)
def test_a_model_is_called_as_the_hub_calls_it(path: str, name: str, tmp_path: Path) -> None:
    assert model_name(tmp_path / path) == name
