"""Show what a weights file holds and which backbone it fits.

    product-mil inspect-weights xception.h5
    product-mil inspect-weights imagenet --backbone efficientnet_lite0

Reads Keras' HDF5 files, PyTorch's .safetensors and, of pickles, the one of efficientnet_lite0's
package, known by its hash; nothing in a file can run. FILE may be `imagenet` with one --backbone:
its published file. With --backbone, every tensor that keeps the file from fitting that one is
listed.
"""

import math
from pathlib import Path

from product_mil.cli.console import command
from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError
from product_mil.files.outputs import user_path


def layers_table(path: Path) -> list[str]:
    """A line for each layer of the file, and their sum."""
    from product_mil.model.inspection import layer_shapes

    lines, count, values = [], 0, 0
    for name, tensors in layer_shapes(path):
        lines.append(f"  {name}: {', '.join(f'{key} {shape}' for key, shape in tensors.items())}")
        count += len(tensors)
        values += sum(math.prod(shape) for shape in tensors.values())
    return [*lines, f"{len(lines)} layers, {count} tensors, {values:,} values"]


def verdicts(path: Path, names: list[str]) -> list[str]:
    """A line for each backbone that the file fits; the faults of those asked for by name."""
    from product_mil.model.inspection import fits

    lines = []
    for name, faults, classes in fits(path, names):
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
    from product_mil.model.registry import backbone
    from product_mil.model.weights.published import published_file

    return published_file(backbone(names[0]), with_top=True)


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, print."""
    parser = CommandParser("inspect-weights", __doc__)
    parser.add_argument("file", type=user_path, metavar="FILE", help="a weights file")
    parser.add_argument(
        "--backbone", action="append", default=[], metavar="NAME", help="only this one; repeatable"
    )
    arguments = parser.parse_args(argv)
    # JAX starts here, not for a typing error.
    from product_mil.files.digests import digest_of

    path = _path(arguments.file, arguments.backbone)
    for line in layers_table(path) + verdicts(path, arguments.backbone):
        print(line)
    print(f"xxh3_128 {digest_of(path)}")
