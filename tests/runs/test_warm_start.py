import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.runs.model import build_model
from product_mil.runs.opening import open_run
from product_mil.runs.warm_start import warm_start
from product_mil.sources.categories import categories_from_ids


def test_rows_are_matched_by_category_and_the_rest_is_new(trained: Path) -> None:
    source = open_run(trained)
    ids = source.categories.ids
    others = np.concatenate([[1, 2], ids[[4, 1, 7]], [ids.max() + 1]])
    categories = categories_from_ids(others)
    fresh, _ = build_model(source.config, len(categories.ids))
    model, notes = warm_start(fresh, source.config.model, categories, trained)
    assert "3 of 6 categories known" in notes[0]
    for path, value in model.parameters.items():
        found, theirs = np.asarray(value), np.asarray(source.model.parameters[path])
        if path.startswith("head/classify/"):
            for column, category in enumerate(categories.ids):
                where = np.flatnonzero(ids == category)
                wanted = theirs[..., where[0]] if len(where) else None
                if wanted is None:
                    wanted = np.asarray(fresh.parameters[path])[..., column]
                np.testing.assert_array_equal(found[..., column], wanted)
        else:
            np.testing.assert_array_equal(found, theirs)
    for path, value in model.statistics.items():
        np.testing.assert_array_equal(value, source.model.statistics[path])


def test_another_head_takes_the_backbone_and_says_what_is_new(trained: Path) -> None:
    source = open_run(trained)
    config = dataclasses.replace(
        source.config, model=dataclasses.replace(source.config.model, pooling="residual")
    )
    fresh, _ = build_model(config, len(source.categories.ids))
    model, notes = warm_start(fresh, source.config.model, source.categories, trained)
    assert "head/classify_image/kernel" in notes[1]
    path = "backbone/blocks/0/kernel"
    np.testing.assert_array_equal(model.parameters[path], source.model.parameters[path])
    assert model.statistics.keys() == fresh.statistics.keys()


def test_another_backbone_is_refused(trained: Path) -> None:
    source = open_run(trained)
    fresh, _ = build_model(source.config, 3)
    other = dataclasses.replace(source.config.model, backbone="mobilenet_v2")
    with pytest.raises(UserError, match="has the backbone small_cnn, this one mobilenet_v2"):
        warm_start(fresh, other, categories_from_ids(np.array([1, 2, 3])), trained)


def test_a_head_that_reads_otherwise_is_refused(trained: Path) -> None:
    source = open_run(trained)
    fresh, _ = build_model(source.config, 3)
    other = dataclasses.replace(source.config.model, layer_norm=True)
    with pytest.raises(UserError, match=r"say config\.model\.layer_norm=False"):
        warm_start(fresh, other, categories_from_ids(np.array([1, 2, 3])), trained)


def test_relevance_is_matched_along_its_first_axis(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where as many categories are known as before: no shape would show it."""
    source = open_run(trained)
    config = dataclasses.replace(
        source.config,
        model=dataclasses.replace(source.config.model, pooling="posterior_attention"),
    )
    ids, rng = source.categories.ids, np.random.default_rng(0)
    earlier, _ = build_model(config, len(ids))
    path = "head/relevance/kernel"
    theirs = rng.normal(size=earlier.parameters[path].shape).astype(np.float32)
    earlier.parameters[path] = jnp.asarray(theirs)
    source = dataclasses.replace(source, config=config, model=earlier)
    monkeypatch.setattr("product_mil.runs.warm_start.open_run", lambda _: source)
    others = np.concatenate([[1, 2], ids[[4, 1]], ids[6:]])
    categories = categories_from_ids(others)
    fresh, _ = build_model(config, len(categories.ids))
    model, notes = warm_start(fresh, source.config.model, categories, trained)
    assert len(notes) == 1  # no leaf is new
    for row, category in enumerate(categories.ids):
        where = np.flatnonzero(ids == category)
        wanted = theirs[where[0]] if len(where) else np.zeros(16)
        np.testing.assert_array_equal(np.asarray(model.parameters[path])[row], wanted)
