"""The backbones by name: what each builds, how wide its embedding is, where its weights come from.

Adding one is a file with the net and one entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flax import nnx

from product_mil.errors import UserError
from product_mil.model.mobilenet_v2 import KERAS_LAYERS as MOBILENET_V2_LAYERS
from product_mil.model.mobilenet_v2 import MobileNetV2
from product_mil.model.small_cnn import SmallCNN

KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True)
class PublishedWeights:
    """A weights file on the network; `hash` as pooch writes it, None where none is published."""

    url: str
    hash: str | None
    provenance: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of the program has to know of a backbone.

    `build(rngs=, dtype=)` makes a module that maps pixels `[b, h, w, 3]` in 0..255 to embeddings
    `[b, embedding_dim]` and does its own scaling. `keras_layers` lists the layers of the net in
    the order in which Keras creates them: (name in Keras' file, or None for the next unnamed
    layer of its type; path of the module that takes its tensors).
    """

    name: str
    build: Callable[..., nnx.Module]
    embedding_dim: int
    image_size_px: int
    weights: PublishedWeights | None = None
    keras_layers: tuple[tuple[str | None, str], ...] = ()


_ALL = (
    BackboneSpec(
        name="mobilenet_v2",
        build=MobileNetV2,
        embedding_dim=1280,
        image_size_px=224,
        weights=PublishedWeights(
            url=KERAS_FILES
            + "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            hash=None,
            provenance="Keras Applications, trained on ImageNet (ILSVRC 2012)",
        ),
        keras_layers=MOBILENET_V2_LAYERS,
    ),
    BackboneSpec(
        name="small_cnn",
        build=SmallCNN,
        embedding_dim=SmallCNN.embedding_dim,
        image_size_px=180,
    ),
)

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in _ALL}


def backbone(name: str) -> BackboneSpec:
    """The backbone called `name`; `UserError` listing the known ones for any other name."""
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
