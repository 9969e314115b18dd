import jax.numpy as jnp

from product_mil.model.classifier import Model


def test_the_digest_is_of_the_backbone_alone() -> None:
    """Its value names embeddings that are cached: another one would make them again."""
    parameters = {
        "backbone/b": jnp.ones((2, 3)),
        "head/x": jnp.ones(1),
        "backbone/a": jnp.arange(3.0),
    }
    statistics = {"backbone/m": jnp.zeros(2)}
    digest = Model(None, parameters, statistics).backbone_digest()
    assert digest[:16] == "21689cd8a8598e2d"
    other_head = Model(None, {**parameters, "head/x": jnp.zeros(1)}, statistics)
    assert other_head.backbone_digest() == digest
    changed = (
        Model(None, {**parameters, "backbone/a": jnp.ones(3)}, statistics),
        Model(None, parameters, {"backbone/m": jnp.ones(2)}),
    )
    assert digest not in [model.backbone_digest() for model in changed]
    assert other_head.backbone_digest("version 2") != digest
