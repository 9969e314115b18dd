import json

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)

from product_mil.data.loader import Loaded, PixelSource, batches
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.inference.metrics import (
    ProductScores,
    metrics_of,
    score_products,
    tree_distance,
)
from product_mil.inference.step import Scores, make_eval_step
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.categories import Categories, read_categories
from product_mil.sources.sample.draw import SampleFiles
from tests.train.tiny import LOG_PRIOR, batch_of, mesh_of, prepared


def products_of(sample: SampleFiles, unknown: int = 0) -> Products:
    catalogue = open_catalogue(sample.train)
    categories = read_categories(sample.categories)
    labels = categories.class_of(np.asarray(catalogue.category_id))
    labels[:unknown] = -1
    return Products(catalogue, np.arange(catalogue.num_products), labels, 4)


@pytest.mark.parametrize("image_slots", [4, 7, 16])
def test_each_product_is_scored_once_in_its_place(sample: SampleFiles, image_slots: int) -> None:
    """The remainder included, whatever the shape of the batches."""
    products = products_of(sample)
    plan = SequentialPlan(products.num_images, shards=4, image_slots=image_slots)

    def eval_step(batch: object) -> Scores:
        label = batch.slots.label  # type: ignore[attr-defined]
        return Scores(label, label % 2 == 0, label / 100, -label / 7)

    loads = batches(PixelSource(products, plan, image_size_px=32), threads=2)
    scores, faults = score_products(len(products), loads, eval_step, mesh_of(4))
    assert faults == []
    np.testing.assert_array_equal(scores.top1, products.labels)
    np.testing.assert_array_equal(scores.in_top5, products.labels % 2 == 0)
    np.testing.assert_allclose(scores.log_prob_true, -products.labels / 7, rtol=1e-6)
    assert metrics_of(scores, products, read_categories(sample.categories))["products"] == 120


def test_scoring_twice_or_never_is_our_fault(sample: SampleFiles) -> None:
    products = products_of(sample)
    plan = SequentialPlan(products.num_images, shards=4, image_slots=16)
    loads = list(batches(PixelSource(products, plan, image_size_px=32), threads=2))

    def eval_step(batch: object) -> Scores:
        label = batch.slots.label  # type: ignore[attr-defined]
        return Scores(label, label == 0, label / 1, label / 1)

    for wrong in (loads[1:], [*loads, loads[0]]):
        with pytest.raises(RuntimeError, match="not scored just once"):
            score_products(len(products), wrong, eval_step, mesh_of(1))


def scores_of(probabilities: np.ndarray, labels: np.ndarray) -> ProductScores:
    order = np.argsort(-probabilities, axis=1)
    true = probabilities[np.arange(len(labels)), np.maximum(labels, 0)]
    return ProductScores(
        top1=order[:, 0],
        in_top5=(order[:, :5] == labels[:, None]).any(1),
        confidence=probabilities.max(1).astype(np.float32),
        log_prob_true=np.log(true).astype(np.float32),
    )


@pytest.mark.parametrize("unknown", [0, 13])
def test_metrics_against_scikit_learn(sample: SampleFiles, unknown: int) -> None:
    products, categories = products_of(sample, unknown), read_categories(sample.categories)
    rng = np.random.default_rng(0)
    k = len(categories.ids)
    logits = rng.normal(size=(len(products), k))
    logits[np.arange(len(products)), np.maximum(products.labels, 0)] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = metrics_of(scores_of(probabilities, products.labels), products, categories)
    known = products.labels >= 0
    label, probabilities = products.labels[known], probabilities[known]
    top1 = probabilities.argmax(1)
    assert found["products"] == known.sum() == 120 - unknown
    assert 0.1 < found["top1"] < 0.9
    wanted = {
        "top1": accuracy_score(label, top1),
        "top5": top_k_accuracy_score(label, probabilities, k=5, labels=np.arange(k)),
        "nll": log_loss(label, probabilities, labels=np.arange(k)),
        "top1_level_1": accuracy_score(categories.groups[0][label], categories.groups[0][top1]),
        "top1_level_2": accuracy_score(categories.groups[1][label], categories.groups[1][top1]),
        "top1_level_3": accuracy_score(label, top1),
        "mean_class_accuracy": recall_score(label, top1, average="macro", labels=np.unique(label)),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert found["top1_level_1"] >= found["top1_level_2"] >= found["top1"]
    num_images = np.asarray(products.catalogue.num_images)[known]
    for count in range(1, 5):
        chosen = num_images == count
        assert found[f"products_images_{count}"] == chosen.sum()
        np.testing.assert_allclose(
            found[f"top1_images_{count}"], accuracy_score(label[chosen], top1[chosen])
        )
    several = num_images > 1
    np.testing.assert_allclose(
        found["top1_several_images"], accuracy_score(label[several], top1[several])
    )


def test_tree_distance_by_hand() -> None:
    """0 right, 1 within a group of level 2, 2 within one of level 1, 3 only at the root."""
    text = {"ids": [1, 2, 3, 4], "names": [["a", "x", "1"], ["a", "x", "2"], ["a", "y", "3"]]}
    text["names"].append(["b", "x", "4"])
    categories = Categories.from_json(json.dumps(text))
    label, top1 = np.asarray([0, 0, 0, 0, 3]), np.asarray([0, 1, 2, 3, 1])
    np.testing.assert_array_equal(tree_distance(top1, label, categories), [0, 1, 2, 3, 3])


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_metrics_follow_the_depth_of_the_tree(sample: SampleFiles, depth: int) -> None:
    """In a full tree of two branches a node, class i has the path of its digits in base 2."""
    k = 2**depth
    names = [list(format(i, f"0{depth}b")) for i in range(k)]
    categories = Categories.from_json(json.dumps({"ids": list(range(k)), "names": names}))
    rng = np.random.default_rng(0)
    labels = rng.integers(k, size=120).astype(np.int32)
    products = products_of(sample)
    products = Products(products.catalogue, products.product_rows, labels, 4)
    probabilities = rng.dirichlet(np.ones(k), 120)
    top1 = probabilities.argmax(1)
    shared = [  # digits in common, from the top down
        next((n for n, (a, b) in enumerate(zip(names[i], names[j], strict=True)) if a != b), depth)
        for i, j in zip(top1, labels, strict=True)
    ]
    distance = depth - np.asarray(shared)
    np.testing.assert_array_equal(tree_distance(top1, labels, categories), distance)
    found = metrics_of(scores_of(probabilities, labels), products, categories)
    assert {name: v for name, v in found.items() if "_level_" in name} == {
        f"top1_level_{level}": pytest.approx(np.mean(np.asarray(shared) >= level))
        for level in range(1, depth + 1)
    }
    assert found[f"top1_level_{depth}"] == found["top1"]
    assert found["error_tree_distance"] == pytest.approx(distance[distance > 0].mean())


def test_products_without_images_get_the_prior() -> None:
    """By the true eval step: product 3 of each shard has no image."""
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    label = batch.slots.label.copy()
    label[:, 3] = 2
    batch = batch._replace(slots=batch.slots._replace(label=label))
    positions = np.full(label.shape, -1, np.int64)
    positions[label >= 0] = np.random.default_rng(0).permutation((label >= 0).sum())
    eval_step = make_eval_step(structure)
    scores, _ = score_products(
        int((label >= 0).sum()),
        [Loaded(batch, positions, [])],
        lambda placed: eval_step(*arrays, placed, jnp.asarray(LOG_PRIOR)),
        mesh_of(1),
    )
    at = positions[:, 3]
    np.testing.assert_array_equal(scores.top1[at], LOG_PRIOR.argmax())
    np.testing.assert_allclose(scores.log_prob_true[at], LOG_PRIOR[2], rtol=1e-6)
    np.testing.assert_allclose(scores.confidence[at], np.exp(LOG_PRIOR.max()), rtol=1e-6)
