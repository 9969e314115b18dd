"""The tree of classifiers, against products of probabilities computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.batch import Slots
from product_mil.model.heads.tree import Levels, TreeHead
from product_mil.model.packing import Packing, packing_of
from product_mil.train.losses import Target, image_loss

# Six leaves: group 0 of level 1 has groups 0 and 1 of level 2, group 1 has 2 (of one leaf) and 3.
LEVEL1 = (0, 0, 0, 1, 1, 1)
LEVEL2 = (0, 0, 1, 2, 3, 3)
LEAVES = (0, 1, 2, 3, 4, 5)
TREES = [
    [LEAVES],
    [LEVEL1, LEAVES],
    [LEVEL1, LEVEL2, LEAVES],
    [LEVEL1, LEVEL2, LEVEL2, LEAVES],  # at a level with one child a node, nothing is decided
    [(0, 0, 0, 0, 0, 0), LEVEL1, LEVEL2, LEVEL2, LEAVES, LEAVES],
]
DIM = 5


def layers_of(head: TreeHead) -> list[nnx.Linear]:
    """The layers from the top down."""
    return [head.root, *(getattr(head, f"of_level_{n}") for n in range(1, len(head.levels)))]


def head_of(levels: Levels) -> TreeHead:
    made = TreeHead(DIM, len(LEAVES), levels=levels, dropout_rate=0.0, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    for layer in layers_of(made):
        layer.kernel[...] = jnp.asarray(random.normal(size=layer.kernel.shape), jnp.float32)
        assert layer.bias is not None
        layer.bias[...] = jnp.asarray(random.normal(size=layer.bias.shape), jnp.float32)
    return made


@pytest.fixture(scope="module")
def head() -> TreeHead:
    return head_of([LEVEL1, LEVEL2, LEAVES])


def by_hand(head: TreeHead, x: np.ndarray) -> np.ndarray:
    """Probabilities of the leaves for one image, node by node."""

    def scores(layer: nnx.Linear) -> np.ndarray:
        assert layer.bias is not None
        return x.astype(np.float64) @ np.asarray(layer.kernel[...], np.float64) + np.asarray(
            layer.bias[...], np.float64
        )

    def among(all_scores: np.ndarray, siblings: list[int], child: int) -> float:
        exp = np.exp([all_scores[i] for i in siblings])
        return float(exp[siblings.index(child)] / exp.sum())

    result = np.ones(len(LEAVES))
    above = (0,) * len(LEAVES)  # the root
    for layer, groups in zip(layers_of(head), head.levels, strict=True):
        of_level = scores(layer)
        for leaf in LEAVES:
            siblings = sorted({groups[k] for k in LEAVES if above[k] == above[leaf]})
            result[leaf] *= among(of_level, siblings, groups[leaf])
        above = groups
    return result


def packed(x: np.ndarray, segment: list[int], label: list[int]) -> tuple[jax.Array, Slots]:
    slots = Slots(
        segment=np.array([segment], np.int32),
        image_index=np.zeros((1, len(segment)), np.int32),
        label=np.array([label], np.int32),
    )
    return jnp.asarray(x[None], jnp.float32), jax.tree.map(jnp.asarray, slots)


def test_a_leaf_is_the_product_along_its_path_and_a_product_the_mean_of_its_images(head):
    x = np.random.default_rng(1).normal(size=(4, DIM)).astype(np.float32)
    x[3] = np.nan  # padding
    embeddings, slots = packed(x, [0, 0, 1, 2], [1, 4])
    output = head(embeddings, packing_of(slots), None)
    of_images = np.exp(np.asarray(output.image_logits))[0]
    wanted = np.stack([by_hand(head, row) for row in x[:3]])
    np.testing.assert_allclose(of_images[:3], wanted, rtol=1e-5)
    np.testing.assert_allclose(of_images[:3].sum(-1), 1, atol=1e-6)
    of_products = np.exp(np.asarray(output.logits))[0]
    np.testing.assert_allclose(of_products[0], wanted[:2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(of_products[1], wanted[2], rtol=1e-5)
    np.testing.assert_allclose(of_products.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(output.attention[0], [0.5, 0.5, 1, 0])


@pytest.mark.parametrize("levels", TREES)
def test_trees_of_other_depths(levels: list[tuple[int, ...]]) -> None:
    head = head_of(levels)
    assert set(nnx.to_pure_dict(nnx.state(head))) == {
        "root", *(f"of_level_{n}" for n in range(1, len(levels)))
    }  # fmt: skip
    x = np.random.default_rng(1).normal(size=(4, DIM)).astype(np.float32)
    found = np.exp(np.asarray(head.leaf_log_probs(jnp.asarray(x))))
    np.testing.assert_allclose(found, np.stack([by_hand(head, row) for row in x]), rtol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_neighbours_change_no_bit(head):
    x = np.random.default_rng(2).normal(size=(3, DIM)).astype(np.float32)
    packing = Packing(jnp.asarray([[0, 0, 1]], jnp.int32), jnp.zeros((1, 3), jnp.int32), 2)
    one = head(jnp.asarray(x[None]), packing, None).logits
    x[2] = 1e4
    other = head(jnp.asarray(x[None]), packing, None).logits
    np.testing.assert_array_equal(one[0, 0], other[0, 0])
    assert np.any(np.asarray(one[0, 1]) != np.asarray(other[0, 1]))


def test_large_scores_stay_finite(head):
    x = jnp.full((1, 1, DIM), 1e4, jnp.float32)
    log_probs = head.leaf_log_probs(x)
    assert np.isfinite(np.asarray(log_probs)).all()
    np.testing.assert_allclose(np.exp(np.asarray(log_probs)).sum(-1), 1, atol=1e-6)


@pytest.mark.slow
def test_a_node_learns_from_its_own_subtree_alone(head):
    graph, parameters = nnx.split(head)
    x = np.random.default_rng(3).normal(size=(2, DIM)).astype(np.float32)
    embeddings, slots = packed(x, [0, 1], [1, 0])  # both under group 0 of both levels

    def loss(parameters):
        module = nnx.merge(graph, parameters)
        output = module(embeddings, packing_of(slots), None)
        return image_loss(output, slots, Target()).total

    value, gradient = jax.value_and_grad(loss)(parameters)
    wanted = -np.log(by_hand(head, x[0])[1]) - np.log(by_hand(head, x[1])[0])
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    gradient = nnx.to_pure_dict(gradient)
    # The loss normalises what is normalised already: up to rounding, nothing comes of that.
    moved = {n: np.any(np.abs(gradient[n]["kernel"]) > 1e-6, axis=0) for n in gradient}
    np.testing.assert_array_equal(moved["root"], [True, True])
    np.testing.assert_array_equal(moved["of_level_1"], [True, True, False, False])
    # Leaf 2 is its group's only one: nothing to decide there.
    np.testing.assert_array_equal(moved["of_level_2"], [True, True, False, False, False, False])
