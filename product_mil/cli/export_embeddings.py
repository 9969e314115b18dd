r"""Embed every image of BSON files with a pretrained backbone, in inference mode.

    python tools/export_embeddings.py --backbone mobilenet_v2 --weights imagenet \
        --data products.bson --output emb.npz

The .npz holds `product_id` [N], `image_index` [N] and `embedding` [N, d] (float32), a row for
each readable image in file order; the others are counted and listed beside it.
"""

import argparse
from pathlib import Path

from product_mil.cli.console import command
from product_mil.cli.flags import add_policy_flags
from product_mil.data.faults import FAULTS, faults_path
from product_mil.devices.runtime import configure_jax
from product_mil.files.outputs import check_output, user_path
from product_mil.runs.image_embeddings import EMBEDDINGS, export_embeddings


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse, embed, say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True, help="such as mobilenet_v2")
    parser.add_argument("--weights", required=True, help="'imagenet' or a weights file")
    parser.add_argument("--data", required=True, help="BSON file, comma-separated files or a glob")
    parser.add_argument("--output", required=True, type=user_path, help=".npz file")
    parser.add_argument("--image_size_px", type=int, default=180, help="default: 180")
    add_policy_flags(parser, "default: skip")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    check_output(output, EMBEDDINGS)
    check_output(faults_path(output), FAULTS)
    configure_jax()
    found = export_embeddings(
        arguments.backbone,
        arguments.weights,
        arguments.data,
        output,
        image_size_px=arguments.image_size_px,
        bad_records=arguments.bad_records or "skip",
        bad_images=arguments.bad_images or "skip",
    )
    line = (
        f"{found.num_embedded} of {found.num_images} images of {found.num_products} products "
        f"embedded: {output}"
    )
    print("\n".join([line, *found.remarks]))


if __name__ == "__main__":
    main()
