"""The examples of docs/guide/sharing.md run as they stand, one after the other."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import product_mil
from tests.scripts import ROOT, call_tool

DOCUMENT = ROOT / "docs" / "guide" / "sharing.md"


@pytest.mark.slow
def test_the_examples(run_and_photos: Path) -> None:
    names: dict[str, Any] = {}
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S):
        if kind == "python":
            exec(block, names)
        else:
            program, command, *arguments = shlex.split(block.replace("\\\n", ""))
            assert (program, command) == ("product-mil", "export-model")
            call_tool("export_model", *arguments)
    card = (run_and_photos / "model" / "README.md").read_text("utf-8")
    assert "Products of our shop, photographed by sellers" in card
    black = np.zeros((48, 48, 3), np.uint8)
    wanted = product_mil.load("model-2").predict_proba([[black] * 2, [], [black] * 3])
    np.testing.assert_allclose(names["probabilities"], wanted, rtol=0, atol=1e-6)


def test_the_order_of_the_columns(trained: Path, tmp_path: Path) -> None:
    found = re.search(r"Columns are in the order of `([\w.]+)` in", DOCUMENT.read_text("utf-8"))
    assert found
    classifier = product_mil.load(trained)
    classifier.save_pretrained(tmp_path / "model")
    value = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
    for name in found[1].split("."):
        value = value[name]
    assert value == classifier.category_ids.tolist()
