"""The commands in this process, and the files of benchmarks/ as modules: they are in no package."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def load_script(path: str) -> Any:
    """The script at this path of the checkout, loaded anew."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def call_tool(name: str, *args: object) -> None:
    """`python tools/<name>.py <args>`, in this process."""
    importlib.import_module(f"product_mil.cli.{name}").main([str(arg) for arg in args])
