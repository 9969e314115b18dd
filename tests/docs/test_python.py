"""The examples of docs/guide/python.md run as they stand, one after the other."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guide" / "python.md"


@pytest.mark.usefixtures("run_and_photos")
def test_the_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # It changes settings of the whole process: what it does is tested with the commands.
    configured: list[bool] = []
    monkeypatch.setattr(
        "product_mil.devices.runtime.configure_jax", lambda: configured.append(True)
    )
    names: dict[str, Any] = {}
    printed = []
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL):
        exec(block, names)
        printed.append(capsys.readouterr().out)

    classifier, predictions = names["classifier"], names["predictions"]
    first = classifier.predict([["photos/front.jpg", "photos/back.jpg"]])[0]
    category, *path, probability = printed[0].replace(" > ", " ").split()
    assert int(category) == first.category_ids[0]
    assert " ".join(path) == " ".join(first.names[0])
    assert float(probability) == pytest.approx(first.probabilities[0])
    assert [len(prediction.images) for prediction in predictions] == [2, 1, 1, 1, 0]
    assert [prediction.from_prior for prediction in predictions] == [False] * 4 + [True]
    assert not any(image.error for prediction in predictions for image in prediction.images)
    assert json.loads(printed[2]) == predictions[0].to_dict()
    level, *_, certain = printed[3].split()
    assert 0 <= int(level) <= 3
    assert 0.9 <= float(certain) <= 1
    assert printed[4] == "1.0 None\n0.0 photos/lost.jpg: there is no such file\n"
    assert names["probabilities"].shape == (5, len(names["names"]))
    assert names["best"].tolist() == [prediction.category_ids[0] for prediction in predictions]
    assert [len(of_product) for of_product in names["embeddings"]] == [2, 1, 1, 1, 0]
    assert all(np.isfinite(of_product).all() for of_product in names["embeddings"])
    assert configured == [True]
