r"""Every system of the seed report in one table: from the prior to the joint model, on your data.

    product-mil seed-table --output table --budget_minutes 15     # the embedded sample
    product-mil seed-table --output table --budget_minutes 60 --data train.bson \
        --valid valid.bson --categories category_names.csv --weights mobilenet_v2=FILE

Trains each system within its share of the budget and writes seed_table.txt, .csv and .png. A system
that does not fit into its share is shortened, its schedule too. Time that a system leaves over goes
to the later ones, then to those that had too little. Kill it whenever you like: the same command
goes on. A system whose weights are not at hand runs on another net instead.
"""

from product_mil.cli.console import command
from product_mil.cli.flags import add_output_flag
from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError
from product_mil.files.outputs import check_output
from product_mil.inference.outputs import refuse_data
from product_mil.sources.opening import check_sources


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train what is not trained yet, write the table after every system."""
    parser = CommandParser("seed-table", __doc__)
    add_output_flag(parser, "DIR", "for the table and the runs")
    for name, kind, default, metavar, about in (
        ("budget_minutes", float, 15.0, "N", "for all training (default: 15)"),
        ("data", str, "", "DATA", "to train on (default: the embedded sample)"),
        ("valid", str, "", "DATA", "to validate on (default: split off)"),
        ("test", str, "", "DATA", "to measure on (default: the validation part)"),
        ("categories", str, "", "FILE", "category_names.csv"),
        ("max_products", int, 0, "N", "a random part of --data (default: all)"),
        ("seed", int, 0, "N", "default: 0"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=about)
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="BACKBONE=FILE",
        help="ImageNet weights at hand, such as mobilenet_v2=FILE.h5 or xception=imagenet",
    )
    parser.add_argument(
        "--systems", "--rungs", nargs="+", default=[], metavar="NAME", help="only these systems"
    )
    args, flags = parser.parse_known_args(argv)
    for flag in flags:
        if not (flag.startswith("--config.") and "=" in flag):
            raise UserError(f"{flag}: unknown argument")
    if not args.budget_minutes > 0:
        raise UserError(f"--budget_minutes={args.budget_minutes}: must be above 0")
    if args.test:
        check_sources(args.test)  # it is read last
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.seed_table.plan import TableOptions, plan
    from product_mil.seed_table.table import TABLE, TEXT_FILE
    from product_mil.seed_table.train_systems import train_systems

    for data in filter(None, (args.data, args.valid, args.test)):
        refuse_data([args.output], data)
    check_output(args.output, TABLE)
    configure_jax()
    options = TableOptions(**vars(args))
    fields = [flag.removeprefix("--config.").partition("=") for flag in flags]
    planned, left_out = plan(options, [(name, value) for name, _, value in fields])
    train_systems(planned, left_out, options)
    print((args.output / TEXT_FILE).read_text(encoding="utf-8"))
