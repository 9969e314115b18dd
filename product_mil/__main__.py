"""The command `product-mil`, also called by `python -m product_mil`: one name for every command."""

import difflib
import importlib
import sys
import textwrap
from typing import NamedTuple

from product_mil.cli.console import command
from product_mil.cli.parser import EXIT_STATUS, called_as
from product_mil.errors import UserError
from product_mil.version import __version__


class Command(NamedTuple):
    """A module whose `main(argv)` is a command, imported when it is called."""

    module: str
    about: str


COMMANDS = {
    "train": Command("product_mil.main", "train a run, or go on with it"),
    "predict": Command("product_mil.cli.export_predictions", "the category of every product"),
    "predict-files": Command("product_mil.cli.predict_files", "the same for any number of files"),
    "plan": Command("product_mil.cli.plan", "what very many products take"),
    "evaluate": Command("product_mil.cli.evaluate", "measure a run on labelled products"),
    "compare": Command("product_mil.cli.compare", "runs against each other: statistics, a page"),
    "ensemble": Command("product_mil.cli.ensemble", "combine runs, or prediction files"),
    "embed": Command("product_mil.cli.export_embeddings", "an embedding of every image"),
    "export-model": Command("product_mil.cli.export_model", "a model for other machines"),
    "serve": Command("product_mil.cli.serve", "answers over HTTP, and a page to try it"),
    "index": Command("product_mil.cli.index_bson", "what products there are"),
    "make-bson": Command("product_mil.cli.make_bson", "one BSON file of products from anywhere"),
    "show": Command("product_mil.cli.show_data", "draw products with all their images"),
    "show-config": Command("product_mil.cli.show_config", "every field of a configuration"),
    "seed-table": Command("product_mil.cli.seed_table", "every system of the report in a table"),
    "inspect-run": Command("product_mil.cli.inspect_run", "what a run's attention has learned"),
    "inspect-weights": Command("product_mil.cli.inspect_weights", "what a weights file holds"),
    "draw-sample": Command("product_mil.cli.draw_sample", "draw a catalogue to try things on"),
}


def main() -> None:
    """Call the command that the first argument names with the arguments after it."""
    with command(prints_result=True):
        module = _module(sys.argv[1:])
    if module:
        importlib.import_module(module).main(sys.argv[2:])


def _module(arguments: list[str]) -> str | None:
    """The module of the command; None where it was help or the version that was asked for.

    Raises:
        UserError: no command of this name.
    """
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return COMMANDS[name].module
    if name == "--version":
        print(f"product_mil {__version__}")
    elif name in ("--help", "-h"):
        print(_help())
    else:
        raise UserError(_no_such(name))
    return None


def _help() -> str:
    program = called_as("").rstrip()
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {program} COMMAND [options]",
            "",
            f"    {program} train --config=joint",
            "",
            "Product categories from all the images of a product, jointly.",
            "commands:",
            *(f"  {name:{width}}  {one.about}" for name, one in COMMANDS.items()),
            f"{program} COMMAND --help shows what a command takes; there is --version too.",
            textwrap.fill(EXIT_STATUS, 78),
        ]
    )


def _no_such(name: str) -> str:
    """One line for a name that is no command, with the nearest one."""
    program = called_as("").rstrip()
    if not name:
        return f"name a command: {', '.join(COMMANDS)}; see {program} --help"
    known = {alias: own for own, one in COMMANDS.items() for alias in (own, _tool(one))}
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {known[near[0]]}?" if near else f"there are {', '.join(COMMANDS)}"
    return f"{name}: there is no such command; {hint}"


def _tool(one: Command) -> str:
    return one.module.rpartition(".")[2]


if __name__ == "__main__":
    main()
