"""The backbones by name: what each builds, how wide its embedding is, where its weights come from.

Adding one is a file with the net and one entry here (docs/adding-a-backbone.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flax import nnx

from product_mil.errors import UserError
from product_mil.model import (
    convnext_tiny,
    efficientnet_v2_s,
    inception_resnet_v2,
    inception_v3,
    mobilenet_v2,
    resnet50_v2,
    xception,
)
from product_mil.model.keras_layers import KerasLayer
from product_mil.model.small_cnn import SmallCNN


@dataclass(frozen=True)
class PublishedFile:
    """A weights file on the network; `hash` as pooch writes it, None where none is published."""

    url: str
    hash: str | None

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublishedWeights:
    """The weights of a net with and without its ImageNet classifier."""

    without_top: PublishedFile
    with_top: PublishedFile
    provenance: str


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of the program has to know of a backbone.

    `build(rngs=, dtype=)` makes a module that maps pixels `[b, h, w, 3]` in 0..255 to embeddings
    `[b, embedding_dim]` and does its own scaling. `keras_layers` lists the layers of the net in
    the order of Keras' files; each of `torch_namings` gives the prefix of a module's tensors in a
    PyTorch file.
    """

    name: str
    build: Callable[..., nnx.Module]
    embedding_dim: int
    image_size_px: int  # that the published weights were trained at
    min_image_size_px: int = 32
    weights: PublishedWeights | None = None
    keras_layers: tuple[KerasLayer, ...] = ()
    torch_namings: tuple[Mapping[str | None, str], ...] = ()


def keras_weights(
    prefix: str, *, notop: str, notop_hash: str | None, top: str, top_hash: str | None
) -> PublishedWeights:
    """Files of Keras Applications, trained on ImageNet (ILSVRC 2012)."""
    root = f"https://storage.googleapis.com/tensorflow/keras-applications/{prefix}"
    return PublishedWeights(
        without_top=PublishedFile(root + notop, notop_hash),
        with_top=PublishedFile(root + top, top_hash),
        provenance="Keras Applications, trained on ImageNet (ILSVRC 2012)",
    )


_ALL = (
    BackboneSpec(
        name="convnext_tiny",
        build=convnext_tiny.ConvNeXtTiny,
        embedding_dim=768,
        image_size_px=224,
        weights=keras_weights(
            "convnext/convnext_tiny",
            notop="_notop.h5",
            notop_hash="sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
            top=".h5",
            top_hash="sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
        ),
        keras_layers=convnext_tiny.KERAS_LAYERS,
        torch_namings=(convnext_tiny.TIMM_NAMES, convnext_tiny.TORCHVISION_NAMES),
    ),
    BackboneSpec(
        name="efficientnet_v2_s",
        build=efficientnet_v2_s.EfficientNetV2S,
        embedding_dim=1280,
        image_size_px=384,
        weights=keras_weights(
            "efficientnet_v2/efficientnetv2-s",
            notop="_notop.h5",
            notop_hash="md5:af0682fb74e8c54910f2d4393339c070",
            top=".h5",
            top_hash="md5:e1d88a8495beba45748fedd0cecbe016",
        ),
        keras_layers=efficientnet_v2_s.KERAS_LAYERS,
    ),
    BackboneSpec(
        name="inception_resnet_v2",
        build=inception_resnet_v2.InceptionResNetV2,
        embedding_dim=1536,
        image_size_px=299,
        min_image_size_px=75,
        weights=keras_weights(
            "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels",
            notop="_notop.h5",
            notop_hash="md5:d19885ff4a710c122648d3b5c3b684e4",
            top=".h5",
            top_hash="md5:e693bd0210a403b3192acc6073ad2e96",
        ),
        keras_layers=inception_resnet_v2.KERAS_LAYERS,
    ),
    BackboneSpec(
        name="inception_v3",
        build=inception_v3.InceptionV3,
        embedding_dim=2048,
        image_size_px=299,
        min_image_size_px=75,
        weights=keras_weights(
            "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels",
            notop="_notop.h5",
            notop_hash="md5:bcbd6486424b2319ff4ef7d526e38f63",
            top=".h5",
            top_hash="md5:9a0d58056eeedaa3f26cb7ebd46da564",
        ),
        keras_layers=inception_v3.KERAS_LAYERS,
        torch_namings=(inception_v3.TORCH_NAMES,),
    ),
    BackboneSpec(
        name="mobilenet_v2",
        build=mobilenet_v2.MobileNetV2,
        embedding_dim=1280,
        image_size_px=224,
        weights=keras_weights(
            "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224",
            notop="_no_top.h5",
            notop_hash=None,
            top=".h5",
            top_hash=None,
        ),
        keras_layers=mobilenet_v2.KERAS_LAYERS,
    ),
    BackboneSpec(
        name="resnet50_v2",
        build=resnet50_v2.ResNet50V2,
        embedding_dim=2048,
        image_size_px=224,
        weights=keras_weights(
            "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels",
            notop="_notop.h5",
            notop_hash="md5:fac2f116257151a9d068a22e544a4917",
            top=".h5",
            top_hash="md5:3ef43a0b657b3be2300d5770ece849e0",
        ),
        keras_layers=resnet50_v2.KERAS_LAYERS,
    ),
    BackboneSpec(
        name="small_cnn",
        build=SmallCNN,
        embedding_dim=SmallCNN.embedding_dim,
        image_size_px=180,
    ),
    BackboneSpec(
        name="xception",
        build=xception.Xception,
        embedding_dim=2048,
        image_size_px=299,
        min_image_size_px=71,
        weights=keras_weights(
            "xception/xception_weights_tf_dim_ordering_tf_kernels",
            notop="_notop.h5",
            notop_hash="md5:b0042744bf5b25fce3cb969f33bebb97",
            top=".h5",
            top_hash="md5:0a58e3b7378bc2990ea3b43d5981f1f6",
        ),
        keras_layers=xception.KERAS_LAYERS,
    ),
)

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in _ALL}


def backbone(name: str) -> BackboneSpec:
    """The backbone called `name`; `UserError` listing the known ones for any other name."""
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
