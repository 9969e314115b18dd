"""The backbones by name.

Adding one is a file with the net and its facts, and its name here (docs/adding-a-backbone.md).
"""

from product_mil.errors import UserError
from product_mil.model import (
    convnext_tiny,
    efficientnet_v2_s,
    inception_resnet_v2,
    inception_v3,
    mobilenet_v2,
    resnet50_v2,
    small_cnn,
    xception,
)
from product_mil.model.spec import BackboneSpec

NETS = (
    convnext_tiny,
    efficientnet_v2_s,
    inception_resnet_v2,
    inception_v3,
    mobilenet_v2,
    resnet50_v2,
    small_cnn,
    xception,
)

BACKBONES: dict[str, BackboneSpec] = {net.SPEC.name: net.SPEC for net in NETS}


def backbone(name: str) -> BackboneSpec:
    """The backbone called `name`; `UserError` listing the known ones for any other name."""
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
