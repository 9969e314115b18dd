"""Which categories are mistaken for which others."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from product_mil.compare.answers import Answers, Questions
from product_mil.sources.ids import Id, ids_from
from product_mil.sources.lookup import rows_of

MAX_CONFUSIONS = 100


def confusions(
    questions: Questions, answers: tuple[Answers, Answers]
) -> list[tuple[Id, Id, int, int]]:
    """The most frequent mistakes of two models together, the most frequent first.

    Each is (true category id, guessed id, products of the first model, products of the second).
    """
    wrong = [a.guess != questions.category_id for a in answers]
    pairs = np.concatenate(
        [
            np.stack([questions.category_id[w], a.guess[w]], 1)
            for w, a in zip(wrong, answers, strict=True)
        ]
    )
    kinds, which = np.unique(pairs, axis=0, return_inverse=True)
    first, second = np.split(which.reshape(-1), [int(wrong[0].sum())])
    counts = [np.bincount(part, minlength=len(kinds)) for part in (first, second)]
    order = np.argsort(-(counts[0] + counts[1]), kind="stable")[:MAX_CONFUSIONS]
    columns = (kinds[order, 0], kinds[order, 1], counts[0][order], counts[1][order])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def confusion_matrix(
    questions: Questions, answers: Answers, category_ids: Sequence[Id]
) -> Int64[np.ndarray, "c c1"]:
    """Numbers of products by true category and guess; the last column holds all other guesses."""
    size = len(category_ids)
    ids = ids_from(category_ids)
    true, guess = (
        rows_of(ids, values) % (size + 1) for values in (questions.category_id, answers.guess)
    )
    flat = np.bincount(true * (size + 1) + guess, minlength=(size + 1) ** 2)
    return flat.reshape(size + 1, size + 1)[:size]
