r"""Embed every image of some data with a pretrained backbone, in inference mode.

    product-mil embed --backbone efficientnet_lite0 --weights imagenet \
        --data products.bson --output emb.npz

The .npz holds `product_id` [N], `image_index` [N] and `embedding` [N, d] (float32), a row for
each readable image in file order; the others are counted and listed beside it.
"""

from pathlib import Path

from product_mil.cli.console import command
from product_mil.cli.flags import add_data_flag, add_output_flag, add_policy_flags
from product_mil.cli.parser import CommandParser
from product_mil.data.faults import FAULTS, faults_path
from product_mil.files.outputs import check_output
from product_mil.inference.outputs import refuse_data


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse, embed, say what was done."""
    parser = CommandParser("embed", __doc__)
    parser.add_argument("--backbone", required=True, metavar="NAME", help="such as mobilenet_v2")
    parser.add_argument("--weights", required=True, metavar="FILE", help="or `imagenet`")
    add_data_flag(parser, required=True)
    add_output_flag(parser, "FILE", "a new .npz file")
    parser.add_argument("--image_size_px", type=int, default=180, metavar="N", help="default: 180")
    add_policy_flags(parser, "default: skip")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.image_embeddings import EMBEDDINGS, export_embeddings

    refuse_data([output], arguments.data)
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
