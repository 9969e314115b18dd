"""The steps that evaluate and predict, by value."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.batch import PackedBatch, Slots
from product_mil.inference.step import (
    largest,
    make_eval_step,
    make_predict_step,
)
from product_mil.model.warp import Views
from tests.train.tiny import LOG_PRIOR, N, P, S, batch_of, forward, host, prepared


def test_evaluation_and_prediction_change_nothing() -> None:
    structure, arrays, *_ = prepared()
    before = host(arrays)
    batch = batch_of(0)
    evaluate = make_eval_step(structure)
    predict = make_predict_step(structure, topk=3, keep_all=True)
    first, again = evaluate(*arrays, batch, LOG_PRIOR), evaluate(*arrays, batch, LOG_PRIOR)
    predicted: Any = predict(*arrays, batch, LOG_PRIOR)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    jax.tree.map(np.testing.assert_array_equal, host(arrays), before)
    # The two agree with each other, and with a plain forward pass.
    np.testing.assert_array_equal(first.top1, predicted.top_class[..., 0])
    np.testing.assert_allclose(first.confidence, predicted.top_probability[..., 0], rtol=1e-6)
    logits = forward(structure, arrays, batch).logits
    probabilities = np.asarray(jax.nn.softmax(logits))
    has_image = np.asarray([[0, 1, 2] if s != 1 else [0, 1, 0] for s in range(S)])
    for s in range(S):
        for product in set(has_image[s]):
            np.testing.assert_allclose(
                predicted.probabilities[s, product], probabilities[s, product], rtol=1e-5
            )
            order = np.argsort(-probabilities[s, product])[:3]
            np.testing.assert_array_equal(predicted.top_class[s, product], order)
    # Products without images get the prior.
    np.testing.assert_allclose(
        predicted.probabilities[:, 3], np.tile(np.exp(LOG_PRIOR), (S, 1)), rtol=1e-6
    )
    assert (first.top1[:, 3] == LOG_PRIOR.argmax()).all()
    label = np.maximum(batch.slots.label, 0)
    chosen = np.take_along_axis(np.log(probabilities), label[..., None], -1)[0, :3, 0]
    np.testing.assert_allclose(first.log_prob_true[0, :3], chosen, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(predicted.probabilities).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_contributions_add_up_to_the_logit_of_the_predicted_class(tau: float) -> None:
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    step = make_predict_step(structure, topk=1, keep_all=True, tau=tau)
    predicted = step(*arrays, batch, LOG_PRIOR)
    log_probs = np.log(np.asarray(predicted.probabilities))
    centred = log_probs.max(-1) - log_probs.mean(-1)  # S p
    for s in range(S):
        for product in np.unique(batch.slots.segment[s][batch.slots.segment[s] < P]):
            own = np.asarray(predicted.contribution)[s][batch.slots.segment[s] == product]
            np.testing.assert_allclose(own.sum(), centred[s, product], atol=1e-4)
    assert np.ptp(np.asarray(predicted.contribution)[0][batch.slots.segment[0] < P]) > 1e-3
    padding = np.asarray(predicted.contribution)[batch.slots.segment == P]
    np.testing.assert_array_equal(padding, 0)


def test_contributions_of_several_views_are_their_mean() -> None:
    structure, arrays, *_ = prepared()
    batch = batch_of(0)

    def predicted(views: Views, images: np.ndarray) -> Any:
        step = make_predict_step(structure, topk=1, keep_all=False, views=views)
        return step(*arrays, batch._replace(images=images), LOG_PRIOR)

    both = predicted("flip", batch.images)
    plain, mirrored = (predicted("none", x) for x in (batch.images, batch.images[..., ::-1, :]))
    same = (plain.top_class == mirrored.top_class)[..., 0]  # S p: nothing else to compare
    assert same[0, 0]
    own = batch.slots.segment[0] == 0
    mean = (np.asarray(plain.contribution) + np.asarray(mirrored.contribution)) / 2
    np.testing.assert_allclose(np.asarray(both.contribution)[0][own], mean[0][own], atol=1e-4)


def test_largest_is_top_k() -> None:
    x = np.random.default_rng(0).integers(0, 6, (3, 2, 20)).astype(np.float32)  # many ties
    x[0, 0] = 1
    for a, b in zip(largest(jnp.asarray(x), 7), jax.lax.top_k(x, 7), strict=True):
        np.testing.assert_array_equal(a, b)


def test_image_guesses_are_those_of_the_image_alone() -> None:
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    predicted = make_predict_step(structure, topk=1, keep_all=False)(*arrays, batch, LOG_PRIOR)
    alone = np.full((S, N), P, np.int32)
    alone[:, 2] = 0
    slots = Slots(alone, np.zeros((S, N), np.int32), batch.slots.label)
    logits = forward(structure, arrays, PackedBatch(batch.images, slots)).logits
    np.testing.assert_array_equal(predicted.image_top_class[:, 2], logits[:, 0].argmax(-1))


def test_views_are_averaged() -> None:
    """Two views by hand: the photos as they are, and mirrored."""
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    mirrored = batch._replace(images=batch.images[:, :, :, ::-1].copy())
    log_probs = [
        np.asarray(jax.nn.log_softmax(forward(structure, arrays, seen).logits))
        for seen in (batch, mirrored)
    ]
    wanted = np.log(np.exp(log_probs).mean(0))
    views = "flip"
    predict = make_predict_step(structure, topk=3, keep_all=True, views=views)
    predicted: Any = predict(*arrays, batch, LOG_PRIOR)
    scores = make_eval_step(structure, views)(*arrays, batch, LOG_PRIOR)
    one_view: Any = make_predict_step(structure, topk=3, keep_all=True)(*arrays, batch, LOG_PRIOR)
    for s in (0, 2, 3):
        np.testing.assert_allclose(
            predicted.probabilities[s, :3], np.exp(wanted[s, :3]), rtol=1e-4, atol=1e-6
        )
        assert np.abs(predicted.probabilities[s, :3] - one_view.probabilities[s, :3]).max() > 1e-3
    np.testing.assert_array_equal(scores.top1, predicted.top_class[..., 0])
    np.testing.assert_allclose(predicted.probabilities[:, 3], one_view.probabilities[:, 3])
    np.testing.assert_allclose(np.asarray(predicted.probabilities).sum(-1), 1, rtol=1e-5)
