"""The files of tools/ and benchmarks/ as modules: they are scripts, in no package."""

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
    load_script(f"tools/{name}.py").main([str(arg) for arg in args])
