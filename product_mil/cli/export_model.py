"""Write a trained model for use on other machines, as a directory that explains itself.

    product-mil export-model --workdir runs/joint --output joint
    product-mil export-model --workdir runs/joint --output joint --format pretrained stablehlo

`pretrained` is what product_mil.load and every --workdir take: the weights in safetensors.
`stablehlo` is one function of images that JAX runs without product_mil. config.json has the
categories, README.md is a model card, and what is known of the data can be given for it.
"""

from product_mil.cli.console import command
from product_mil.cli.flags import add_checkpoint_flag, add_output_flag, add_workdir_flag
from product_mil.cli.imports import add_import_flag
from product_mil.cli.parser import CommandParser
from product_mil.files.outputs import check_output, user_path

FORMATS = ("pretrained", "stablehlo")


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, open the run, write, say what was written."""
    parser = CommandParser("export-model", __doc__)
    add_workdir_flag(parser, required=True)
    add_output_flag(parser, "DIR", "a new directory")
    add_checkpoint_flag(parser)
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=["pretrained"],
        metavar="FORMAT",
        help=f"{' or '.join(FORMATS)} (default: pretrained)",
    )
    for flag, about in (
        ("--license", "of the weights, as the hub abbreviates it: apache-2.0"),
        ("--data_description", "what the model was trained on, for the card"),
        ("--data_license", "the licence of the data, for the card"),
    ):
        parser.add_argument(flag, metavar="TEXT", help=about)
    parser.add_argument(
        "--comparison", type=user_path, metavar="DIR", help="of product-mil compare, for the card"
    )
    add_import_flag(parser)
    args = parser.parse_args(argv)
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.exporting import export_model
    from product_mil.runs.model_card import CardFacts
    from product_mil.runs.opening import open_run
    from product_mil.runs.pretrained import PRETRAINED

    check_output(args.output, PRETRAINED)
    configure_jax()
    run = open_run(args.workdir, args.checkpoint)
    print(run.summary, flush=True)
    facts = CardFacts(args.license, args.data_description, args.data_license, args.comparison)
    export_model(run, args.output, facts, args.format)
    for path in sorted(args.output.iterdir()):
        size = path.stat().st_size
        print(f"{path}: {size / 1e6:.1f} MB" if size >= 1e6 else f"{path}: {size / 1e3:.1f} kB")
