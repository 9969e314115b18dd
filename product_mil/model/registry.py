"""The backbones and the heads by name.

Adding one is a file with the net or the head and its facts, and its name here
(docs/guide/adding-a-backbone.md, docs/guide/adding-a-head.md).
"""

from flax import nnx

from product_mil.errors import UserError
from product_mil.model import prior
from product_mil.model.backbones import (
    convnext_tiny,
    efficientnet_lite0,
    efficientnet_v2_s,
    hand_made,
    inception_resnet_v2,
    inception_v3,
    mobilenet_v2,
    resnet50_v2,
    small_cnn,
    xception,
)
from product_mil.model.heads import pooled, probabilities, residual, tree
from product_mil.model.heads import prior as prior_head
from product_mil.model.heads.spec import HeadSpec
from product_mil.model.spec import BackboneSpec

SPECS = (
    convnext_tiny.SPEC,
    efficientnet_lite0.SPEC,
    efficientnet_v2_s.SPEC,
    hand_made.SPEC,
    inception_resnet_v2.SPEC,
    inception_v3.SPEC,
    mobilenet_v2.SPEC,
    prior.SPEC,
    resnet50_v2.SPEC,
    *small_cnn.SPECS,
    xception.SPEC,
)

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in SPECS}

HEAD_SPECS = (
    probabilities.SPEC,
    *pooled.SPECS,
    *residual.SPECS,
    tree.SPEC,
    prior_head.SPEC,
)

HEADS: dict[str, HeadSpec] = {spec.name: spec for spec in HEAD_SPECS}  # and those registered


def backbone(name: str) -> BackboneSpec:
    """The backbone called `name`; `UserError` listing the known ones for any other name."""
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def head(name: str) -> HeadSpec:
    """The head called `name`; `UserError` that says how to register one for any other name."""
    if name not in HEADS:
        raise UserError(
            f"head {name!r} is not known; choose one of {', '.join(HEADS)}, or register your own: "
            "a command takes --import FILE.py, Python product_mil.heads.register "
            "(docs/guide/adding-a-head.md)"
        )
    return HEADS[name]


def blocks_of(spec: BackboneSpec) -> tuple[str, ...]:
    """The parts of a net that have parameters, in the order in which its file declares them.

    Names are beginnings of parameter paths, such as `blocks/14` or `mixed_7a`.
    """
    found: list[str] = []
    for name, part in vars(spec.build(rngs=nnx.Rngs(0))).items():
        listed = part if isinstance(part, nnx.List) else None
        parts = {name: part} if listed is None else {f"{name}/{i}": p for i, p in enumerate(listed)}
        for path, each in parts.items():
            if isinstance(each, nnx.Module) and nnx.to_flat_state(nnx.state(each, nnx.Param)):
                found.append(path)
    return tuple(found)
