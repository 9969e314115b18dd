"""Logit adjustment: what is added where, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.config import StageConfig
from product_mil.data.plan import balanced_draws
from product_mil.inference.step import make_eval_step, make_predict_step
from product_mil.inference.trust import SHARES, TEMPERATURES, make_trust_step
from product_mil.runs.model import log_prior_of
from product_mil.runs.schedule import adjustments
from tests.train.tiny import LOG_PRIOR, batch_of, forward, model_of

LABELS = np.repeat([0, 1, 2], [80, 15, 5])
PRIOR = log_prior_of(np.bincount(LABELS))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_what_is_added(tau: float, power: float) -> None:
    """The loss goes by the classes as drawn; validation products are as they come."""
    draws = balanced_draws(LABELS, power) if power else None
    stage = StageConfig(logit_adjustment=tau)
    in_loss, restoring = adjustments(stage, LABELS, draws, PRIOR)
    if not tau and not power:
        assert in_loss is None
        assert restoring is None
        return
    drawn = np.bincount(LABELS, draws) if power else np.bincount(LABELS)
    seen = np.log((drawn + 1) / (drawn + 1).sum())
    if power:
        np.testing.assert_allclose(seen, np.log(1 / 3), rtol=1e-6)
    if tau:
        assert in_loss is not None
        np.testing.assert_allclose(in_loss, tau * seen, rtol=1e-5)
    else:
        assert in_loss is None
    assert restoring is not None
    np.testing.assert_allclose(restoring, tau * seen + PRIOR - seen, rtol=1e-5, atol=1e-6)


def test_prediction_without_the_prior() -> None:
    """`tau` takes the log prior out of the logits; products without images keep the prior."""
    structure, *arrays = model_of()
    batch: Any = batch_of(0)
    output = forward(structure, tuple(arrays), batch)
    wanted = np.asarray(jax.nn.log_softmax(output.logits - 0.7 * LOG_PRIOR[None, None]))
    found = make_predict_step(structure, topk=1, keep_all=True, tau=0.7)(*arrays, batch, LOG_PRIOR)
    scores = make_eval_step(structure, tau=0.7)(*arrays, batch, LOG_PRIOR)
    assert found.probabilities is not None
    probabilities = np.asarray(found.probabilities)
    np.testing.assert_allclose(probabilities[0, :3], np.exp(wanted[0, :3]), rtol=1e-5)
    np.testing.assert_allclose(probabilities[0, 3], np.exp(LOG_PRIOR), rtol=1e-5)
    np.testing.assert_array_equal(scores.top1[0, :3], wanted[0, :3].argmax(-1))
    plain = make_predict_step(structure, topk=1, keep_all=True)(*arrays, batch, LOG_PRIOR)
    assert np.abs(probabilities - np.asarray(plain.probabilities))[0, :3].max() > 1e-3


def test_trust_sees_what_the_loss_sees() -> None:
    structure, parameters, statistics = model_of("residual")
    parameters = {
        path: jnp.asarray(np.random.default_rng(len(path)).normal(size=x.shape), jnp.float32)
        for path, x in parameters.items()
    }
    batch: Any = batch_of(0)
    found = make_trust_step(structure, LOG_PRIOR)(parameters, statistics, batch)
    output = forward(structure, (parameters, statistics), batch)
    log_probs = np.asarray(jax.nn.log_softmax((output.logits + LOG_PRIOR[None, None]) / 2))
    label = np.maximum(batch.slots.label, 0)[..., None]
    wanted = -np.take_along_axis(log_probs, label, -1)[..., 0]
    whole, two = SHARES.index(1.0), TEMPERATURES.index(2.0)
    np.testing.assert_allclose(found[0, :3, whole, two], wanted[0, :3], rtol=1e-4)
