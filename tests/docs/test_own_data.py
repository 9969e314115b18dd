"""The program and the category file in docs/guide/own-data.md do what the text says."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.categories import read_categories

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guide" / "own-data.md"


def test_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for category, product, count in (("CUP", "a", 2), ("CUP", "b", 1), ("BAG", "c", 3)):
        folder = tmp_path / "photos" / category / product
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    exec(program, {})
    catalogue = open_catalogue("train.bson")
    np.testing.assert_array_equal(catalogue.product_id, [0, 1, 2])
    np.testing.assert_array_equal(catalogue.category_id, [0, 1, 1])
    np.testing.assert_array_equal(catalogue.num_images, [3, 2, 1])
    categories = read_categories(Path("category_names.csv"))
    assert list(categories.names) == [("BAG",), ("CUP",)]


def test_the_category_file(tmp_path: Path) -> None:
    (text,) = re.findall(r"```\n(category_id,.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "names.csv"
    path.write_text(text, "utf-8")
    categories = read_categories(path)
    assert categories.ids.tolist() == [7, 8, 12, 31]
    assert categories.names[2] == ("Garden", "Plants", "Plants", "Plants")
    assert categories.levels() == (2, 3, 3, 4)
