"""What each image adds to its product's logits."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.heads.head_cases import KEY, NAMES, SEGMENT, P, X, head_model, run

SUMS = ["mean", "max", "gated_attention", "residual", "posterior_attention"]
PRODUCTS = ((0, 0), (0, 1), (0, 2), (1, 0))


def mild(name: str, **options: Any) -> Any:
    """A head, and where it has a relevance one that leaves no image without attention."""
    model = head_model(name, **options)
    if name == "posterior_attention":
        model.head.relevance.kernel[...] = model.head.relevance.kernel[...] / 40
    return model


def centred(logits: Any) -> np.ndarray:
    return np.asarray(logits) - np.asarray(logits).mean(-1, keepdims=True)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_they_add_up_to_the_centred_logits(name: str, places: bool) -> None:
    model = mild(name, count_embedding=places, position_embedding=places)
    if hasattr(model.head, "trust"):
        model.head.trust[...] = jnp.asarray([0.25, 0.75])
    x = X.copy()
    x[0, 3] = x[0, 2]  # equal images: each maximum of theirs is a tie
    output = run(model, x)
    for shard, product in PRODUCTS:
        own = np.asarray(output.contributions)[shard][SEGMENT[shard] == product]
        wanted = centred(output.logits)[shard, product]
        np.testing.assert_allclose(own.sum(0), wanted, atol=2e-5)
        assert len(own) == 1 or np.ptp(own, axis=0).max() > 0.1
    np.testing.assert_array_equal(np.asarray(output.contributions)[SEGMENT == P], 0)


@pytest.mark.parametrize("name", SUMS)
def test_equal_images_contribute_alike(name: str) -> None:
    x = X.copy()
    x[0, 3] = x[0, 2]
    found = np.asarray(run(mild(name), x).contributions)
    np.testing.assert_allclose(found[0, 3], found[0, 2], atol=1e-6)
    assert np.abs(found[0, 1] - found[0, 2]).max() > 0.01


@pytest.mark.parametrize("name", ["residual", "posterior_attention"])
def test_residual_by_hand(name: str) -> None:
    """Its log-probabilities over n, and trust times its attended embedding and share of bias."""
    model = mild(name)
    model.head.trust[...] = jnp.asarray([0.25, 0.75])
    output, head = run(model), model.head
    own = SEGMENT[0] == 1
    logits = X[0][own] @ np.asarray(head.classify_image.kernel[...])
    logits = logits + np.asarray(head.classify_image.bias[...])
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    weights = np.full((3, 8), 1 / 3)
    if name == "posterior_attention":
        scores = np.exp(100 * np.exp(log_probs) @ np.asarray(head.relevance.kernel[...]))
        weights = scores / scores.sum(0)  # images, and 8 heads of one channel each
    terms = (weights * X[0][own]) @ np.asarray(head.correct.kernel[...])
    wanted = log_probs / 3 + 0.75 * (terms + np.asarray(head.correct.bias[...]) / 3)
    found = np.asarray(output.contributions)[0][own]
    np.testing.assert_allclose(found, centred(wanted), atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_who_has_them(name: str) -> None:
    """Sums over images do, at inference: with dropout the logits are another sum."""
    model = head_model(name)
    assert (run(model).contributions is not None) == (name in SUMS)
    assert run(model, key=KEY).contributions is None
