"""The commands, called in this process."""

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def call_tool(name: str, *args: object) -> None:
    """`python tools/<name>.py <args>`, in this process."""
    importlib.import_module(f"product_mil.cli.{name}").main([str(arg) for arg in args])
