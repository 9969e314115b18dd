"""Show what a weights file holds and which backbone it fits.

    python tools/inspect_weights.py FILE [--backbone NAME]

Reads Keras' HDF5 files, PyTorch's .safetensors and, of pickles, the one of efficientnet_lite0's
package, known by its hash; nothing in a file can run. FILE may be `imagenet` with one --backbone:
its published file. With --backbone, every tensor that keeps the file from fitting that one is
listed.
"""

import argparse
from pathlib import Path

import numpy as np
from flax import nnx

from product_mil.cli.console import command
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.model.registry import BACKBONES, backbone
from product_mil.model.weights.files import file_layers
from product_mil.model.weights.load import fit, weights_fingerprint
from product_mil.model.weights.published import published_file


def layers_table(path: Path) -> list[str]:
    """A line for each layer of the file, and their sum."""
    with file_layers(path) as (layers, _):
        lines, count, values = [], 0, 0
        for layer in layers:
            told = ", ".join(f"{name} {tensor.shape}" for name, tensor in layer.tensors.items())
            within = f"{layer.container}/" if layer.container else ""
            lines.append(f"  {within}{layer.name}: {told}")
            count += len(layer.tensors)
            values += sum(int(np.prod(tensor.shape)) for tensor in layer.tensors.values())
    return [*lines, f"{len(lines)} layers, {count} tensors, {values:,} values"]


def verdicts(path: Path, names: list[str]) -> list[str]:
    """A line for each backbone that the file fits; the faults of those asked for by name."""
    lines = []
    for name in names or [name for name, spec in BACKBONES.items() if spec.keras_layers]:
        spec = backbone(name)
        if not spec.keras_layers:
            raise UserError(f"backbone {name} reads no weights file")
        try:
            faults, classes = fit(spec.build(rngs=nnx.Rngs(0)), spec, path)
        except UserError as error:
            faults, classes = str(error), 0
        if not faults:
            known = {0: "without a top", 1000: "with the ImageNet top"}
            lines.append(f"fits {name}, {known.get(classes, f'with a top of {classes} classes')}")
        elif names:
            lines.append(f"does not fit {name}: {faults}")
    return lines or ["fits no backbone; --backbone NAME lists what differs"]


def _path(file: Path, names: list[str]) -> Path:
    if str(file) != "imagenet":
        return file
    if len(names) != 1:
        raise UserError("imagenet: say whose published file with one --backbone")
    return published_file(backbone(names[0]), with_top=True)


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=user_path, metavar="FILE")
    parser.add_argument("--backbone", action="append", default=[], help="only this one; repeatable")
    arguments = parser.parse_args(argv)
    path = _path(arguments.file, arguments.backbone)
    for line in layers_table(path) + verdicts(path, arguments.backbone):
        print(line)
    print(f"xxh3_128 {weights_fingerprint(path)}")
