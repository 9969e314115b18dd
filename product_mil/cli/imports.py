"""`--import FILE.py`: heads of one's own for commands that open runs."""

import argparse
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from product_mil.errors import UserError
from product_mil.files.foreign import CONFIGURATION, refuse_foreign
from product_mil.files.outputs import user_path


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """`--import`; each file is run as soon as the flag is read, `imports` lists them."""
    parser.add_argument(
        "--import",
        dest="imports",
        action=_Import,
        type=user_path,
        default=[],
        metavar="FILE.py",
        help="a file that registers a head of your own",
    )


def import_file(path: Path) -> None:
    """Run a Python file for what it registers.

    Raises:
        UserError: there is no such file, it is no Python, or it imports what is not there.
    """
    try:
        refuse_foreign(path, CONFIGURATION)
        runpy.run_path(str(path), run_name=path.stem)
    except FileNotFoundError:
        raise UserError(f"--import {path}: no such file") from None
    except SyntaxError as error:
        raise UserError(f"--import {path}: line {error.lineno}: {error.msg}") from error
    except (ImportError, UserError) as error:
        raise UserError(f"--import {path}: {error}") from error


class _Import(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | Path | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        assert isinstance(values, Path)
        import_file(values)
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
