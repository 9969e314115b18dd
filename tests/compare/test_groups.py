"""Groups of products by category, in trees of any depth."""

import json

import numpy as np
import pytest

from product_mil.compare.answers import Answers, Questions
from product_mil.compare.page.gallery import select
from product_mil.compare.statistics.groups import groups_of
from product_mil.sources.categories import Categories

# Categories 10 and 30 lie below "food"; in a tree of one level, both are called so.
TOPS = ["food", "clothes", "food", "toys"]


def tree(depth: int) -> Categories:
    names = [[top, *[f"{place % 2}"] * (depth - 1)] for place, top in enumerate(TOPS)]
    return Categories.from_json(json.dumps({"ids": [10, 20, 30, 40], "names": names}))


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_products_by_the_names_at_level_1(depth: int) -> None:
    asked = Questions(np.arange(6), np.asarray([30, 10, 20, 10, 99, 30]), num_images=None)
    found = groups_of(asked, tree(depth))["by_level1"]
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "food": [0, 1, 3, 5],
        "clothes": [2],
    }


@pytest.mark.parametrize(("depth", "shown"), [(1, {10, 20, 30}), (2, {10, 20}), (6, {10, 20})])
def test_the_gallery_draws_from_every_group_at_level_1(depth: int, shown: set[int]) -> None:
    """A category of few products is shown where it has a group of its own."""
    category = np.asarray([10] * 200 + [20, 30])
    asked = Questions(np.arange(202), category, num_images=None)
    right, wrong = Answers(guess=category), Answers(guess=np.full(202, 40))
    selection = select(asked, right, wrong, tree(depth), limit=len(shown))
    assert {int(category[row]) for row in selection.rows} == shown
