"""Train: `python -m product_mil.main --config=configs/joint.py [--config.field=value ...]`."""

import argparse

from product_mil.cli.console import command
from product_mil.config import Config, load_config, override, refuse
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.runs.limits import problems


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, build the configuration, refuse it if wrong, run it."""
    parser = argparse.ArgumentParser(
        prog="python -m product_mil.main",
        usage="%(prog)s --config=FILE.py[:ARGUMENT] [--workdir=DIR] [--config.field=value ...]",
        description="Train what a configuration describes, or go on with it.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--config", default="", help="configuration file, such as configs/joint.py:laptop"
    )
    parser.add_argument("--workdir", help="the run's directory; default runs/<config name>")
    try:
        args, others = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see {parser.prog} --help") from None
    errors: list[str] = []
    assignments: list[tuple[str, str]] = []
    for arg in others:
        name, equals, value = arg.removeprefix("--config.").partition("=")
        if arg.startswith("--config.") and equals:
            assignments.append((name, value))
        else:
            errors.append(f"{arg}: expected --config, --workdir or --config.field=value")
    try:
        config = load_config(args.config)
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
    run(config, user_path(args.workdir or f"runs/{config.name}"))


if __name__ == "__main__":
    main()
