"""Configuration files: Python files with a `get_config(argument)` that returns a `Config`."""

import difflib
import importlib.util
import os
import re
import sys
from pathlib import Path

from product_mil.config.fields import Config
from product_mil.errors import UserError
from product_mil.files.foreign import CONFIGURATION, refuse_foreign
from product_mil.files.package import packaged_configurations

_BARE_NAME = re.compile(r"(?P<name>\w[\w-]*)(:(?P<argument>[\w-]*))?")  # of a packaged one


def load_config(spec: str) -> Config:
    """What `get_config(argument)` of a configuration returns.

    `joint` and `joint:laptop` name one that comes with product_mil, `mine.py:fast` a file.

    Raises:
        UserError: no such name or file, no `get_config` in it, or an argument that it refuses.
    """
    if not spec:
        raise UserError("name a configuration: --config=joint, or a file of your own")
    path, argument = _file_and_argument(spec)
    try:
        refuse_foreign(path, CONFIGURATION)
    except UserError as error:
        raise UserError(f"--config={spec}: {error}") from None
    if not path.is_file():
        raise UserError(
            f"--config={spec}: there is no file {path} in {Path.cwd()}; the configurations that "
            f"come with product_mil are {', '.join(packaged_configurations())}"
        )
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--config={spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # beside the file
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"--config={spec}: {path}:{error.lineno}: {error.msg}") from error
    except ImportError as error:
        raise UserError(f"--config={spec}: {path}: {error}") from error
    finally:
        sys.dont_write_bytecode = writes_bytecode
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={spec}: {path} defines no get_config(argument)")
    config = module.get_config(argument)
    if not isinstance(config, Config):
        raise UserError(f"--config={spec}: get_config returned {type(config).__name__}, no Config")
    return config


def _file_and_argument(spec: str) -> tuple[Path, str]:
    """The file of a configuration, and what follows its colon.

    A bare name is one that comes with the package. Any other text is split at the last colon that
    stands after the name of a file; there may be some in the name. Without such a file, at the last
    colon after which no directory is named.
    """
    if bare := _BARE_NAME.fullmatch(spec):
        known = packaged_configurations()
        if bare["name"] not in known:
            raise UserError(
                f"--config={spec}: no configuration of this name comes with product_mil; there are "
                f"{', '.join(known)}. A file of your own ends in .py"
            )
        return known[bare["name"]], bare["argument"] or ""
    colons = [at for at in range(len(spec), -1, -1) if spec[at : at + 1] in (":", "")]
    # `Path.is_file` raises where a name is too long.
    names = [at for at in colons if os.path.isfile(spec[:at])]  # noqa: PTH113
    missing = [at for at in colons[1:] if "/" not in spec[at:]] or colons
    at = (names or missing)[0]
    return Path(spec[:at]), spec[at + 1 :]


def choose(arguments: dict[str, Config], argument: str) -> Config:
    """The configuration that a config file offers under `argument`, or one line with the others."""
    if argument not in arguments:
        near = difflib.get_close_matches(argument, arguments, n=1)
        hint = f"did you mean ':{near[0]}'? " if near else ""
        known = ", ".join(f"':{name}'" for name in arguments if name)
        raise UserError(
            f"there is no variant ':{argument}' of this configuration; {hint}there are {known}"
        )
    return arguments[argument]
