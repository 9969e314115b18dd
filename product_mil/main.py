r"""Train a run, or go on with it.

    product-mil train --config=joint
    product-mil train --config=joint:laptop --config.data.train=train.bson \
        --config.data.categories=category_names.csv

`--config.field=value` changes a field of the configuration, such as config.data.train. The same
command goes on with a run that was stopped.
"""

import re
import sys

from product_mil.cli.console import command
from product_mil.cli.parser import CommandParser
from product_mil.config import Config, load_config, override, refuse
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.files.package import packaged_configurations
from product_mil.runs.limits import problems


@command()
def main(argv: list[str] | None = None) -> None:
    """Build the configuration, refuse it if wrong, run it. `argv` is without the program's name."""
    parser = CommandParser("train", __doc__)
    known = ", ".join(packaged_configurations())
    parser.add_argument(
        "--config",
        default="",
        help=f"{known}, or a file of your own, such as mine.py; a variant after a colon",
    )
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config name>")
    arguments = sys.argv[1:] if argv is None else argv
    # One dash was always enough for these.
    arguments = [re.sub(r"^-(?=(config|workdir)\b)", "--", argument) for argument in arguments]
    given, others = parser.parse_known_args(arguments)
    errors: list[str] = []
    assignments: list[tuple[str, str]] = []
    for arg in others:
        name, equals, value = arg.removeprefix("--config.").partition("=")
        if arg.startswith("--config.") and equals:
            assignments.append((name, value))
        else:
            errors.append(f"{arg}: expected --config, --workdir or --config.field=value")
    try:
        config = load_config(given.config)
    except UserError as error:
        refuse([str(error), *errors, *override(Config(), assignments)[1]])
        raise
    config, wrong = override(config, assignments)
    errors += wrong + problems(config)
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.check import check_config
    from product_mil.runs.run import run

    configure_jax()
    refuse(errors + check_config(config))
    run(config, user_path(given.workdir or f"runs/{config.name}"))


if __name__ == "__main__":
    main()
