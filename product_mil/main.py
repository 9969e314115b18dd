r"""Train a run, or go on with it.

    product-mil train --config=joint
    product-mil train --config=joint:laptop --config.data.train=train.bson \
        --config.data.categories=category_names.csv

`--config.field=value` changes a field of the configuration, such as config.data.train. The same
command goes on with a run that was stopped.
"""

import sys

from absl import flags

from product_mil.cli.console import command, leaves_at_once
from product_mil.cli.parser import CommandParser, called_as
from product_mil.config import Config, load_config, override, problems, refuse
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.files.package import packaged_configurations

FLAGS = ("config", "workdir", "coordinator", "num_processes", "process_id", "distributed")


def declared_flags() -> flags.FlagValues:
    """The flags, apart from those that libraries declare for the whole process."""
    declared = flags.FlagValues()
    known = ", ".join(packaged_configurations())
    for name, about in (
        ("config", f"{known}, or a file of your own, such as mine.py; a variant after a colon"),
        ("workdir", "the run's directory (default: runs/<config name>)"),
        ("coordinator", "host:port of process 0, where several processes train together"),
    ):
        flags.DEFINE_string(name, None, about, flag_values=declared)
    for name, about in (
        ("num_processes", "how many processes train together"),
        ("process_id", "which of them this is, from 0"),
    ):
        flags.DEFINE_integer(name, None, about, flag_values=declared)
    about = "train together with the processes that srun, mpirun or Kubernetes started"
    flags.DEFINE_bool("distributed", False, about, flag_values=declared)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=declared)
    return declared


def parse_arguments(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """The flags, and all other arguments: `--config.field=value` and what is not known.

    Raises:
        UserError: a flag without its value.
    """
    fields = [arg for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    declared = declared_flags()
    try:
        rest = declared([arg for arg in argv if arg not in fields], known_only=True)
    except flags.Error as error:
        raise UserError(f"{error}; see {called_as('train')} --help") from error
    return declared, [*fields, *rest[1:]]


@leaves_at_once
@command()
def main(argv: list[str] | None = None) -> None:
    """Build the configuration, refuse it if wrong, run it. `argv` is without the program's name."""
    given, others = parse_arguments(sys.argv if argv is None else ["product_mil.main", *argv])
    if given.help:
        parser = CommandParser("train", __doc__)
        for name in FLAGS:
            parser.add_argument(f"--{name}", help=given[name].help)
        parser.print_help()
        return
    errors: list[str] = []
    assignments: list[tuple[str, str]] = []
    for arg in others:
        name, equals, value = arg.lstrip("-").removeprefix("config.").partition("=")
        if arg.startswith(("--config.", "-config.")) and equals:
            assignments.append((name, value))
        else:
            errors.append(f"{arg}: expected --config, --workdir or --config.field=value")
    try:
        config = load_config(given.config or "")
    except UserError as error:
        refuse([str(error), *errors, *override(Config(), assignments)[1]])
        raise
    config, wrong = override(config, assignments)
    errors += wrong + problems(config)
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.check import check_devices, check_names
    from product_mil.runs.run import run

    errors += check_names(config)
    _join(given, errors)
    configure_jax()
    refuse(errors + check_devices(config))
    run(config, user_path(given.workdir or f"runs/{config.name}"))


def _join(given: flags.FlagValues, errors: list[str]) -> None:
    """Join the other processes of the run, if there are any and the configuration has no errors.

    Raises:
        UserError: flags are missing or contradict each other, there are errors, or the others
            cannot be reached.
    """
    from product_mil.devices.hosts import join, join_by_launcher

    group = [given.coordinator, given.num_processes, given.process_id]
    if given.distributed and any(value is not None for value in group):
        raise UserError(
            "--distributed asks the launcher who takes part: leave out --coordinator, "
            "--num_processes and --process_id, or give these three alone"
        )
    if given.distributed:
        refuse(errors)
        join_by_launcher()
    elif any(value is not None for value in group):
        if None in group:
            raise UserError("give --coordinator, --num_processes and --process_id together")
        refuse(errors)
        join(*group)


if __name__ == "__main__":
    main()
