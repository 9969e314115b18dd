"""How far the backbones are from timm's and torchvision's own nets with the same weights.

    python -m benchmarks.parts.parity_torch [--backbones convnext_tiny] [--sizes_px 180,299]

Needs torch, timm and torchvision, which nothing else here uses. Every weight is random, saved as
`.safetensors` under PyTorch's own names and read as a user's file is; those of `packaged` are the
package's own, which timm gets in the order of its tensors from torch's reader. Printed is the
largest difference of logits over the largest logit. Both sides see the pixels as ours
scales them, and averages that leave the border out, as TensorFlow's do.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from product_mil.model.registry import backbone
from product_mil.model.weights.load import load_weights
from product_mil.model.weights.published import published_file

try:
    import timm  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]
    from safetensors.torch import save_file
except ImportError as error:
    raise SystemExit(f"{error}; pip install torch timm torchvision") from None

NETS = {  # the same architecture in PyTorch packages
    "convnext_tiny": ("timm convnext_tiny", "torchvision convnext_tiny"),
    "efficientnet_lite0": ("timm tf_efficientnet_lite0", "packaged tf_efficientnet_lite0"),
    "efficientnet_v2_s": ("timm tf_efficientnetv2_s",),
    "inception_resnet_v2": ("timm inception_resnet_v2",),
    "inception_v3": ("timm inception_v3", "torchvision inception_v3"),
}


def build(name: str) -> Any:
    """PyTorch's net in inference mode, weights random (no layer exploding) or the package's."""
    library, model = name.split()
    if library == "packaged":
        path = published_file(backbone("efficientnet_lite0"), with_top=True)
        net = timm.create_model(model, pretrained=False)
        tensors = torch.load(path, weights_only=True).values()
        net.load_state_dict(dict(zip(net.state_dict(), tensors, strict=True)))
        return net.eval()
    if library == "timm":
        net = timm.create_model(model, pretrained=False)
    else:
        net = torchvision.models.get_model(model, weights=None)
    random = torch.Generator().manual_seed(0)
    for key, value in net.state_dict().items():
        if value.ndim > 1 and not key.endswith("layer_scale"):
            value.normal_(std=(1.5 / value[0].numel()) ** 0.5, generator=random)
        elif key.endswith(("bias", "running_mean")):
            value.normal_(std=0.1, generator=random)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.0, generator=random)
    return net.eval()


def average_without_border(x: Any, kernel_size: Any, stride: Any, padding: Any, *_, **__) -> Any:
    return AVERAGE(x, kernel_size, stride, padding, count_include_pad=False)


AVERAGE = torch.nn.functional.avg_pool2d


def compare(name: str, other: str, size_px: int) -> str:
    theirs, spec = build(other), backbone(name)
    with tempfile.TemporaryDirectory() as directory:
        if other.startswith("packaged"):
            source = published_file(spec, with_top=False)
        else:
            source = Path(directory) / "model.safetensors"
            save_file(theirs.state_dict(), source)
        ours = spec.build(rngs=nnx.Rngs(0))
        loaded = load_weights(ours, spec, source)
    graph, state = nnx.split(ours)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 200, (2, 5, 5, 3)).repeat(-(-size_px // 5), 1)
    coarse = coarse.repeat(-(-size_px // 5), 2)[:, :size_px, :size_px]
    pixels = (coarse + random.integers(0, 56, coarse.shape)).astype(np.uint8)

    @jax.jit
    def embed(state: Any, pixels: Any) -> Any:
        net: Any = nnx.merge(graph, state)
        return net(pixels, use_running_statistics=True), net.scaled(pixels)

    embedding, scaled = (np.asarray(value) for value in embed(state, pixels))
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())).numpy()
    assert loaded.top is not None
    logits = embedding @ loaded.top.kernel + loaded.top.bias
    difference = np.abs(logits - wanted).max() / np.abs(wanted).max()
    between = np.abs(wanted[0] - wanted[1]).max() / np.abs(wanted).max()
    line = f"{name}, {other}, {size_px} px: logits {difference:.1e}"
    return f"{line} ({between:.1e} between two images)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", default=",".join(NETS))
    parser.add_argument("--sizes_px", default="180,299")
    arguments = parser.parse_args()
    torch.nn.functional.avg_pool2d = average_without_border
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, torchvision {torchvision.__version__}"
    )
    for name in arguments.backbones.split(","):
        for other in NETS[name]:
            for size_px in map(int, arguments.sizes_px.split(",")):
                print(compare(name, other, size_px), flush=True)


if __name__ == "__main__":
    main()
