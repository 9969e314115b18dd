"""What `--help` of every command looks like, whichever way the command was called."""

import argparse
import inspect
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from product_mil.errors import UserError

EXIT_STATUS = (
    "exit status: 0 done; 1 a bug; 2 an error that one line tells; 128 + n ended by signal n "
    "(docs/guide/commands.md)"
)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size().columns)
        super().__init__(prog, max_help_position=28, width=width)

    def _format_args(self, action: argparse.Action, default_metavar: Any) -> str:
        if action.nargs == "+":  # shorter than argparse's FILE [FILE ...]
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)


class CommandParser(argparse.ArgumentParser):
    """The parser of the command that is called `name` in `product-mil`.

    `about` is the docstring of its module: paragraphs, of which the indented ones are examples.
    They call `product-mil name`; help shows them first, as this process was called.
    """

    def __init__(self, name: str, about: str | None) -> None:
        super().__init__(
            prog=called_as(name),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        paragraphs = inspect.cleandoc(about or "").split("\n\n")
        shown = [text.replace(f"product-mil {name}", self.prog) for text in paragraphs]
        self._examples = [text for text in shown if text.startswith("    ")]
        self._about = [text for text in shown if not text.startswith("    ")]
        self._wanted: list[str] = []

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument; usage shows those that must be given."""
        action = super().add_argument(*names, **settings)
        if action.required:
            value = action.metavar or action.dest.upper()
            self._wanted.append(" ".join([*action.option_strings[:1], str(value)]))
        return action

    def format_usage(self) -> str:
        """One line: what must be given, and that there is more."""
        return " ".join(["usage:", self.prog, *self._wanted, "[options]\n"])

    def format_help(self) -> str:
        """The usage, examples, what the command does, its options, and how it ends."""
        formatter = self._get_formatter()
        for paragraph in self._about:
            formatter.add_text(paragraph)
        formatter.start_section("options")
        formatter.add_arguments(self._actions)
        formatter.end_section()
        formatter.add_text(EXIT_STATUS)
        return "\n\n".join([self.format_usage().strip(), *self._examples, formatter.format_help()])

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments as everything else is refused: in one line."""
        *_, other = message.rpartition("unrecognized arguments: ")
        path, options = Path(other.split(" ")[0]), self._option_string_actions
        if path.name and other != message and "--data" in options and os.access(path, os.F_OK):
            pattern = path.with_name(f"*{path.suffix}")  # which the shell has made several names of
            message = f"{path} is one name too many; quote the pattern: --data '{pattern}'"
        raise UserError(f"{message}; see {self.prog} --help")


def called_as(name: str) -> str:
    """How the command `name` was called, as a person types it."""
    called = Path(sys.argv[0])
    ways = {
        ("tools", called.name): f"python {called}",
        ("product_mil", "__main__.py"): f"python -m product_mil {name}",
        ("product_mil", "main.py"): "python -m product_mil.main",
    }
    script = (called.resolve().parent.name, called.name if called.suffix == ".py" else "")
    return ways.get(script, f"product-mil {name}")
