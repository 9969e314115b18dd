import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.batch import EmbeddedBatch, Slots
from product_mil.inference.trust import SHARES, TEMPERATURES, TRUST, fit_trust, make_trust_step
from product_mil.model.backbones.small_cnn import SmallCNN
from product_mil.model.classifier import Classifier, merge_model, split_model
from product_mil.model.heads.residual import PosteriorAttentionHead, ResidualHead
from product_mil.model.packing import Packing
from tests.model.heads.head_cases import built_head

ONE = TEMPERATURES.index(1.0)


def shake_relevance(head: ResidualHead) -> None:
    """Attention away from its start, the mean, where the head has any."""
    if isinstance(head, PosteriorAttentionHead):
        shape = head.relevance.kernel.shape
        head.relevance.kernel[...] = jax.random.normal(jax.random.key(9), shape) / 10


def nll_of(columns: list[list[float]]) -> np.ndarray:
    """[N, shares] as if temperature 1 suited best."""
    nll = np.asarray(columns, np.float64)[:, :, None] + np.arange(len(TEMPERATURES)) * 10.0
    assert nll.shape[1] == len(SHARES)
    return nll


def test_trust_needs_evidence() -> None:
    rng = np.random.default_rng(0)
    helps = [[1.0 - share + 0.01 * rng.normal() for share in SHARES] for _ in range(50)]
    noise = [[1.0 + rng.normal() for _ in SHARES] for _ in range(50)]
    several = np.repeat([False, True], 50)
    np.testing.assert_array_equal(fit_trust(nll_of(noise + helps), several), [0, 1])
    np.testing.assert_array_equal(fit_trust(nll_of(helps + noise), several), [1, 0])


def test_a_kind_of_product_that_is_not_there_gets_the_whole_correction() -> None:
    hurts = [list(SHARES)] * 20
    np.testing.assert_array_equal(fit_trust(nll_of(hurts), np.zeros(20, bool)), [0, 1])


def test_one_standard_error_by_hand() -> None:
    # Share 0.5 is best by far; 0.25 is worse by 0.1 with a standard error of 0.05.
    rows = [[9, 0.1 + sign * 0.5, 0, 1, 1] for sign in (-1, 1) for _ in range(50)]
    assert fit_trust(nll_of(rows), np.ones(100, bool))[1] == 0.5
    rows = [[9, 0.04 + sign * 0.5, 0, 1, 1] for sign in (-1, 1) for _ in range(50)]
    assert fit_trust(nll_of(rows), np.ones(100, bool))[1] == 0.25


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("pooling", ["residual", "posterior_attention"])
def test_step_gives_the_likelihoods_that_prediction_would_with_that_trust(
    pooling: str, *, layer_norm: bool
) -> None:
    rng = np.random.default_rng(1)
    s, n, p, d, k = 1, 6, 4, 8, 5
    head = built_head(pooling, d, k, dropout_rate=0.5)
    assert isinstance(head, ResidualHead)
    shake_relevance(head)
    head.correct.kernel[...] = jnp.asarray(rng.normal(size=(d, k)), jnp.float32)
    model = Classifier(SmallCNN(rngs=nnx.Rngs(0)), head, layer_norm=layer_norm)
    structure, parameters, statistics = split_model(model)
    slots = Slots(
        segment=np.array([[0, 1, 1, 2, 2, p]], np.int32),
        image_index=np.array([[0, 0, 1, 0, 1, 0]], np.int32),
        label=np.array([[1, 3, 0, -1]], np.int32),
    )
    batch = EmbeddedBatch(rng.normal(size=(s, n, d)).astype(np.float32), slots)
    nll = np.asarray(make_trust_step(structure)(parameters, statistics, batch))
    for number, share in enumerate(SHARES):
        trusted = {**statistics, TRUST: jnp.full(2, share)}
        output = merge_model(structure, parameters, trusted)(
            batch, use_running_statistics=True, key=None
        )
        log_probs = np.asarray(jax.nn.log_softmax(output.logits))
        wanted = [-log_probs[0, product, slots.label[0, product]] for product in range(3)]
        np.testing.assert_allclose(nll[0, :3, number, ONE], wanted, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["residual", "posterior_attention"])
def test_trust_acts_by_number_of_images_and_in_prediction_only(pooling: str) -> None:
    rng = np.random.default_rng(2)
    head = built_head(pooling, 8, 5)
    assert isinstance(head, ResidualHead)
    shake_relevance(head)
    head.correct.kernel[...] = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
    segment = jnp.asarray([[0, 1, 1, 2]], jnp.int32)
    packing = Packing(segment, jnp.asarray([[0, 0, 1, 0]], jnp.int32), 2)
    x = jnp.asarray(rng.normal(size=(1, 4, 8)), jnp.float32)
    full = np.asarray(head(x, packing, None).logits)
    parts = head.parts(x, packing, None)
    head.trust[...] = jnp.asarray([0.0, 1.0])
    found = np.asarray(head(x, packing, None).logits)
    np.testing.assert_array_equal(found[0, 0], np.asarray(parts.geometric)[0, 0])
    np.testing.assert_array_equal(found[0, 1], full[0, 1])
    in_training = np.asarray(head(x, packing, jax.random.key(0)).logits)
    np.testing.assert_allclose(in_training, full, rtol=1e-6)
