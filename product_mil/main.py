"""Train: `python -m product_mil.main --config=configs/joint.py [--config.field=value ...]`."""

import sys

from absl import app, flags

from product_mil.cli.console import command
from product_mil.config import Config, load_config, override, refuse
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.runs.limits import problems

_CONFIG = flags.DEFINE_string("config", None, "configuration file, such as configs/joint.py:laptop")
_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory; default runs/<config name>")


def parse_arguments(argv: list[str]) -> list[str]:
    """absl's flags, with `--config.field=value` kept aside as positional arguments.

    Raises:
        UserError: a flag without its value. Unknown ones stay, for `main` to list.
    """
    overrides = [arg for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    others = [arg for arg in argv if arg not in overrides]
    try:
        rest = flags.FLAGS(others, known_only=True)
    except flags.Error as error:
        raise UserError(f"{error}; see python -m product_mil.main --help") from error
    return [rest[0], *overrides, *rest[1:]]


def main(argv: list[str]) -> None:
    """Build the configuration, refuse it if wrong, run it."""
    with command():
        errors: list[str] = []
        assignments: list[tuple[str, str]] = []
        for arg in argv[1:]:
            name, equals, value = arg.lstrip("-").removeprefix("config.").partition("=")
            if arg.startswith(("--config.", "-config.")) and equals:
                assignments.append((name, value))
            else:
                errors.append(f"{arg}: expected --config, --workdir or --config.field=value")
        try:
            config = load_config(_CONFIG.value or "")
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
        run(config, user_path(_WORKDIR.value or f"runs/{config.name}"))


@command()
def console() -> None:
    """Run with absl's flags; errors of use are one line."""
    app.run(main, argv=sys.argv, flags_parser=parse_arguments)


if __name__ == "__main__":
    console()
