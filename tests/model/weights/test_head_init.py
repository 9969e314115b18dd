"""What the head starts from: by name, or categories matched by hand to rows of ImageNet's top."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from product_mil.config import Config, DataConfig, ModelConfig
from product_mil.errors import UserError
from product_mil.model.weights.head_init import initialise_head
from product_mil.model.weights.load import ImageNetTop
from product_mil.runs.check import check_config
from product_mil.runs.model import build_model

IDS = np.array([10, 20, 30, 40])
CONFIG = Config(
    data=DataConfig(image_size_px=48), model=ModelConfig(backbone="small_cnn", pooling="residual")
)


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG, len(IDS))[0]


@pytest.fixture(scope="module")
def top() -> ImageNetTop:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(192, 1000)).astype(np.float32)
    return ImageNetTop(kernel, random.normal(size=1000).astype(np.float32))


def changed_leaves(before, after) -> set[str]:
    return {
        path
        for path in before.parameters
        if np.any(np.asarray(before.parameters[path]) != np.asarray(after.parameters[path]))
    }


def test_named_values_change_the_image_classifier_alone(model):
    same, _ = initialise_head(model, "normal", IDS, None, 0)
    assert changed_leaves(model, same) == set()
    kernel = "head/classify_image/kernel"
    zeros, _ = initialise_head(model, "zeros", IDS, None, 0)
    assert changed_leaves(model, zeros) == {kernel}
    assert not np.any(zeros.parameters[kernel])
    cut, _ = initialise_head(model, "truncated_normal", IDS, None, 0)
    assert changed_leaves(model, cut) == {kernel}
    values = np.asarray(cut.parameters[kernel])
    assert 0.007 < values.std() < 0.01
    assert np.abs(values).max() <= 0.02
    other, _ = initialise_head(model, "truncated_normal", IDS, None, 1)
    assert np.any(np.asarray(other.parameters[kernel]) != values)


def test_matched_categories_start_as_rows_of_the_top(model, top, tmp_path):
    path = tmp_path / "match.csv"
    path.write_text("category_id,imagenet_class\n30,999\n10,7\n")
    started, notes = initialise_head(model, str(path), IDS, top, 0)
    assert notes == ["head: 2 of 4 categories start from the ImageNet top"]
    kernel = np.asarray(started.parameters["head/classify_image/kernel"])
    bias = np.asarray(started.parameters["head/classify_image/bias"])
    np.testing.assert_array_equal(kernel[:, [0, 2]], top.kernel[:, [7, 999]])
    np.testing.assert_array_equal(bias, [top.bias[7], 0, top.bias[999], 0])
    fresh = np.asarray(model.parameters["head/classify_image/kernel"])
    np.testing.assert_array_equal(kernel[:, [1, 3]], fresh[:, [1, 3]])
    assert not np.any(started.parameters["head/correct/kernel"])


def test_mistakes_are_listed_by_line(model, top, tmp_path):
    path = tmp_path / "match.csv"
    path.write_text("category_id,imagenet_class\n30,1000\n11,7\n10,x\n20,1\n20,2\n")
    with pytest.raises(UserError) as error:
        initialise_head(model, str(path), IDS, top, 0)
    for message in (
        "line 2: imagenet_class 1000",
        "line 3: no category 11",
        "line 4: expected",
        "line 6: category 20 again",
    ):
        assert message in str(error.value)
    with pytest.raises(UserError, match="the weights have no ImageNet top"):
        initialise_head(model, str(path), IDS, None, 0)
    path.write_text("id\n")
    with pytest.raises(UserError, match="no rows"):
        initialise_head(model, str(path), IDS, top, 0)


def test_the_configuration_is_checked_before_work():
    config = replace(CONFIG, model=replace(CONFIG.model, head_init="lecun"))
    problems = " ".join(check_config(config))
    assert "config.model.head_init: lecun: no such file, nor normal, zeros" in problems
    assert "needs the ImageNet top" in problems
    norm = replace(CONFIG, model=replace(CONFIG.model, head_init="lecun", layer_norm=True))
    assert "reads embeddings as they are" in " ".join(check_config(norm))
    assert "reads embeddings as they are" not in problems
    small = replace(CONFIG, model=replace(CONFIG.model, backbone="inception_v3"))
    assert "inception_v3 takes images from 75 px" in " ".join(check_config(small))


def test_imagenet_rows_from_the_shared_file(shared: Path, tmp_path: Path):
    """End to end with a real file: a class that is its own ImageNet row predicts as ImageNet."""
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    path = tmp_path / "match.csv"
    path.write_text("category_id,imagenet_class\n20,948\n")
    settings = ModelConfig(
        backbone="mobilenet_v2",
        weights=str(shared / "weights" / name),
        pooling="mean",
        head_init=str(path),
    )
    config = replace(CONFIG, model=settings)
    model, notes = build_model(config, len(IDS), IDS)
    assert notes[-1] == "head: 1 of 4 categories start from the ImageNet top"
    import h5py

    with h5py.File(shared / "weights" / name) as file:
        found = [data for key, data in _datasets(file) if "predictions" in key]
        kernel = next(data[()] for data in found if data.ndim == 2)
    got = np.asarray(model.parameters["head/classify/kernel"])
    np.testing.assert_array_equal(got[:, 1], kernel[:, 948])


def _datasets(file):
    import h5py

    result = []
    file.visititems(lambda key, o: result.append((key, o)) if isinstance(o, h5py.Dataset) else None)
    return result


def test_the_top_of_another_task_is_refused(model, tmp_path):
    (tmp_path / "matches.csv").write_text("category_id,imagenet_class\n10,3\n")
    top = ImageNetTop(np.zeros((192, 10), np.float32), np.zeros(10, np.float32))
    with pytest.raises(UserError, match="has 10 classes and ImageNet's 1000"):
        initialise_head(model, str(tmp_path / "matches.csv"), IDS, top, 0)
