"""What is read out of a run's attention, by value."""

import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.inference.predictions import PredictionBlock
from product_mil.runs.inspection import AttentionRow, attention_table


def block(counts: list[int], attention: list[float], guesses: list[int]) -> PredictionBlock:
    """Products of class 0 with so many images each."""
    n, m = len(counts), sum(counts)
    return PredictionBlock(
        product_id=np.arange(n),
        category_id=np.zeros(n, np.int64),
        has_category=np.zeros(n, bool),
        log_prob_true=np.full(n, np.nan, np.float32),
        num_images=np.full(n, 4, np.int32),
        num_readable_images=np.asarray(counts, np.int32),
        top_class=np.zeros((n, 1), np.int32),
        top_probability=np.ones((n, 1), np.float32),
        image_index=np.zeros(m, np.int32),
        attention=np.asarray(attention, np.float32),
        image_top_class=np.asarray(guesses, np.int32),
        probabilities=None,
    )


def test_attention_by_agreement() -> None:
    """Two blocks; products of one image and of none count nowhere."""
    blocks = [
        block([1, 2, 0, 3], [1, 0.75, 0.25, 0.5, 0.375, 0.125], [5, 0, 1, 0, 0, 2]),
        block([2, 2], [0.5, 0.5, 0.875, 0.125], [0, 0, 0, 3]),
    ]
    two, three, several = attention_table(blocks)
    agreeing = (1.5 + 1 + 1 + 1.75) / 4
    assert two == AttentionRow(2, 4, agreeing, 2, (0.5 + 0.25) / 2)
    assert three == AttentionRow(3, 2, (1.5 + 1.125) / 2, 1, 0.375)
    assert several.num_images is None
    assert several[1:] == pytest.approx((6, (4 * agreeing + 2.625) / 6, 3, (0.75 + 0.375) / 3))


def test_a_side_without_images_is_not_a_number() -> None:
    (row, _) = attention_table([block([2], [0.5, 0.5], [0, 0])])
    assert row[:4] == (2, 2, 1.0, 0)
    assert np.isnan(row.attention_of_disagreeing)


def test_single_images_alone_show_nothing() -> None:
    with pytest.raises(UserError, match="no product in --data has several readable images"):
        attention_table([block([1, 1], [1, 1], [0, 1])])
