"""Groups of products for which accuracies and differences are reported separately."""

import numpy as np
from jaxtyping import Int64

from product_mil.compare.answers import Questions
from product_mil.sources.categories import Categories

Groups = dict[str, dict[str, Int64[np.ndarray, " n"]]]


def groups_of(questions: Questions, categories: Categories) -> Groups:
    """Rows of products by number of images, level-1 category and images shared with training."""
    found: Groups = {}
    if questions.num_images is not None:
        found["by_num_images"] = {
            str(count): np.flatnonzero(questions.num_images == count)
            for count in np.unique(questions.num_images).tolist()
        }
        found["by_several_images"] = {
            name: rows
            for name, chosen in (
                ("one", questions.num_images == 1),
                ("several", questions.num_images > 1),
            )
            if len(rows := np.flatnonzero(chosen))
        }
    place = categories.class_of(questions.category_id)
    found["by_level1"] = {}
    for name, members in _members(categories).items():
        rows = np.flatnonzero(np.isin(place, members))
        if len(rows):
            found["by_level1"][name] = rows
    if questions.shares_image is not None:
        found["by_shared_image"] = {
            name: rows
            for name, chosen in (
                ("shares_an_image_with_training", questions.shares_image),
                ("shares_none", ~questions.shares_image),
            )
            if len(rows := np.flatnonzero(chosen))
        }
    return found


def _members(categories: Categories) -> dict[str, list[int]]:
    """The class indices of each name at level 1; in a tree of one level, classes may share one."""
    members: dict[str, list[int]] = {}
    for class_index, names in enumerate(categories.names):
        members.setdefault(names[0], []).append(class_index)
    return members
