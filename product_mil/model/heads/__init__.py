"""The heads that sit on a backbone's embeddings: Pr(Y | x1..xn) of packed products.

A head maps embeddings `[S, n, d]` of packed images to one categorical distribution a product.
It never learns which backbone made them. `key` turns dropout on; None means inference.
"""

from flax import nnx

from product_mil.model.heads.common import HeadOutput, PlaceEmbedding, classifier, dropout
from product_mil.model.heads.pooled import PooledHead
from product_mil.model.heads.pooling import build_pooling
from product_mil.model.heads.probabilities import ProbabilitiesHead
from product_mil.model.heads.residual import PosteriorAttentionHead, ResidualHead, ResidualParts

__all__ = [
    "CLASS_AXES",
    "Head",
    "HeadOutput",
    "PlaceEmbedding",
    "PooledHead",
    "PosteriorAttentionHead",
    "ProbabilitiesHead",
    "ResidualHead",
    "ResidualParts",
    "build_head",
    "classifier",
    "dropout",
]

# The layers of heads that have an axis of classes, and which axis of their arrays that is.
CLASS_AXES = {"classify": -1, "classify_image": -1, "correct": -1, "relevance": 0}

Head = ProbabilitiesHead | PooledHead | ResidualHead


def build_head(
    pooling: str,
    *,
    dim: int,
    classes: int,
    attention_heads: int,
    attention_dim: int,
    dropout_rate: float,
    position_embedding: bool,
    count_embedding: bool,
    rngs: nnx.Rngs,
) -> Head:
    """The head called `pooling`.

    `attention_heads` and `attention_dim` are of `gated_attention` and `transformer` alone.

    Raises:
        ValueError: no such pooling, or `attention_heads` does not divide `dim`.
    """
    if pooling == "probabilities":
        return ProbabilitiesHead(dim, classes, dropout_rate=dropout_rate, rngs=rngs)
    places = PlaceEmbedding(dim, position=position_embedding, count=count_embedding)
    residual = {"residual": ResidualHead, "posterior_attention": PosteriorAttentionHead}
    if pooling in residual:
        return residual[pooling](dim, classes, places=places, dropout_rate=dropout_rate, rngs=rngs)
    pool = build_pooling(
        pooling, dim=dim, attention_heads=attention_heads, attention_dim=attention_dim, rngs=rngs
    )
    return PooledHead(
        dim, classes, places=places, pooling=pool, dropout_rate=dropout_rate, rngs=rngs
    )
