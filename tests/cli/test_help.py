"""What every command says of itself, however it was called, and that saying so costs little."""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

import product_mil
from product_mil import main as training
from product_mil.__main__ import COMMANDS
from product_mil.__main__ import main as product_mil_command
from product_mil.cli.parser import CommandParser
from tests.scripts import ROOT

SCRIPTS = sorted((ROOT / "tools").glob("*.py"))
DOCUMENTS = [ROOT / "docs" / "guide" / "commands.md"]


TOOL_ERROR = "argument --workdir: expected one argument"
TRAINING_ERROR = "Missing value for flag --workdir"


class Parsed(Exception):
    """What a command was called with, in place of its work."""


def help_of(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> list[str]:
    """The lines of `product-mil NAME --help` in a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["/bin/product-mil", name, "--help"])
    with suppress(SystemExit):  # of status 0, as another test sees
        product_mil_command()
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()


def examples_in(lines: Sequence[str]) -> list[str]:
    """The calls of `product-mil` among lines, each whole and without its comment."""
    text = "\n".join(lines).replace("\\\n", " ")
    found = re.findall(r"^ *(product-mil [a-z].*)$", text, re.MULTILINE)
    return [" ".join(shlex.split(call, comments=True)) for call in found]


@pytest.fixture
def parse_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands raise `Parsed` in place of working."""
    parse, parse_training = argparse.ArgumentParser.parse_known_args, training.parse_arguments

    def refuse_unknown(others: Sequence[str]) -> NoReturn:
        assert [flag for flag in others if not flag.startswith("--config.")] == []
        raise Parsed

    def parse_known_args(parser: CommandParser, *arguments: Any) -> NoReturn:
        refuse_unknown(parse(parser, *arguments)[1])

    def parse_arguments(argv: list[str]) -> NoReturn:
        refuse_unknown(parse_training(argv)[1])

    monkeypatch.setattr(CommandParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(training, "parse_arguments", parse_arguments)


def test_every_command_has_its_script_and_its_name() -> None:
    files = (ROOT / "product_mil/cli").glob("*.py")
    modules = {path.stem for path in files if "def main(argv" in path.read_text()}
    assert modules == {path.stem for path in SCRIPTS}
    named = {one.module for one in COMMANDS.values()}
    assert named == {"product_mil.main", *(f"product_mil.cli.{name}" for name in modules)}


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_begins_with_an_example(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(name, monkeypatch, capsys, columns)
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(f"usage: product-mil {name} ")
    assert lines[1] == ""
    assert lines[2].startswith(f"    product-mil {name} ")
    assert "  -h, --help " in "\n".join(lines)
    assert " ".join(lines[-2:]).startswith("exit status: 0 done")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("parse_alone")
def test_the_examples_are_understood(name: str) -> None:
    examples = examples_in((import_module(COMMANDS[name].module).__doc__ or "").splitlines())
    assert examples
    for example in examples:
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("product-mil", name)
        with pytest.raises(Parsed):
            import_module(COMMANDS[called].module).main(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("parse_alone")
def test_the_examples_of_documents_are_understood(document: Path) -> None:
    examples = examples_in(document.read_text(encoding="utf-8").splitlines())
    assert {example.split()[1] for example in examples} == COMMANDS.keys()
    for example in examples:
        _, called, *arguments = shlex.split(example)
        with pytest.raises(Parsed):
            import_module(COMMANDS[called].module).main(arguments)


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("called", "shown", "error"),
    [
        (["tools/export_predictions.py"], "python tools/export_predictions.py", TOOL_ERROR),
        (["-m", "product_mil", "predict"], "python -m product_mil predict", TOOL_ERROR),
        (["-m", "product_mil.main"], "python -m product_mil.main", TRAINING_ERROR),
    ],
)
def test_help_speaks_of_the_command_as_it_was_called(
    called: list[str], shown: str, error: str
) -> None:
    said = run_command(*called, "--help")
    assert (said.returncode, said.stderr) == (0, "")
    lines = said.stdout.splitlines()
    assert lines[0].startswith(f"usage: {shown} ")
    assert lines[2].startswith(f"    {shown} --")
    wrong = run_command(*called, "--workdir")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"error: {error}; see {shown} --help\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_call_the_commands(script: Path) -> None:
    module = import_module(f"product_mil.cli.{script.stem}")
    assert runpy.run_path(str(script))["main"] is module.main


NO_JAX = """
import sys
from product_mil.__main__ import main
sys.argv = ["product-mil", *sys.argv[1:]]
try:
    main()
finally:
    assert not {"jax", "flax", "optax", "orbax", "grain"} & sys.modules.keys()
"""


def test_no_help_starts_jax() -> None:
    """One process asks every command for its help: a start costs seconds."""
    code = f"""
import sys
from contextlib import suppress
from product_mil.__main__ import main
for name in {list(COMMANDS)}:
    sys.argv = ["product-mil", name, "--help"]
    with suppress(SystemExit):
        main()
    assert not {{"jax", "flax", "optax", "orbax", "grain"}} & sys.modules.keys(), name
"""
    said = run_command("-c", code)
    assert (said.returncode, said.stderr) == (0, "")
    usage = re.findall(r"^usage: product-mil (\S+)", said.stdout, re.MULTILINE)
    assert usage == list(COMMANDS)


def test_help_of_all_and_the_version_import_no_command() -> None:
    code = NO_JAX.replace('"jax"', '"jax", "numpy", "product_mil.main"')
    said = run_command("-c", code, "--help")
    assert said.returncode == 0
    lines = said.stdout.splitlines()
    assert lines[:3] == [
        "usage: product-mil COMMAND [options]", "", "    product-mil train --config=joint",
    ]  # fmt: skip
    after = lines.index("commands:") + 1
    assert [line.split()[0] for line in lines[after : after + len(COMMANDS)]] == list(COMMANDS)
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    said = run_command("-c", code, "--version")
    assert (said.returncode, said.stdout) == (0, f"product_mil {product_mil.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "trian: there is no such command; did you mean train?"),
        (["export_predictions"], "export_predictions: there is no such command; did you mean pred"),
        (["seed_table"], "seed_table: there is no such command; did you mean seed-table?"),
        (["zzz"], "zzz: there is no such command; there are train, predict, "),
        ([], "name a command: train, predict, "),
        (["--config=joint"], "--config=joint: there is no such command; "),
    ],
)
def test_a_mistyped_command_is_told_the_nearest(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["product-mil", *arguments])
    with pytest.raises(SystemExit) as left:
        product_mil_command()
    written = capsys.readouterr()
    assert (left.value.code, written.out) == (2, "")
    assert written.err.startswith(f"error: {said}")
    assert written.err.count("\n") == 1


def test_one_dash_is_enough_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for dashes in ("-", "--"):
        with pytest.raises(SystemExit):
            import_module("product_mil.main").main(
                [f"{dashes}config", "joint:smoke", f"{dashes}config.seed=x"]
            )
        assert capsys.readouterr().err.endswith(
            "has 1 error(s):\n  config.seed=x: expected a whole number\n"
        )
