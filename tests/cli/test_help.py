"""Every command says what it takes, and `main(argv)` of every script can be called."""

import runpy
from pathlib import Path

import pytest

from product_mil.main import main
from tests.scripts import ROOT

SCRIPTS = sorted((ROOT / "tools").glob("*.py"))


def test_every_command_has_its_script() -> None:
    commands = {
        path.stem
        for path in (ROOT / "product_mil/cli").glob("*.py")
        if "def main(argv" in path.read_text()
    }
    assert commands == {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = runpy.run_path(str(script))["main"]
    with pytest.raises(SystemExit) as left:
        command(["--help"])
    said = capsys.readouterr()
    assert left.value.code == 0
    assert said.out.startswith("usage: ")
    assert "  -h, --help " in said.out
    assert "  --" in said.out
    assert said.err == ""


def test_help_of_main(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "  --workdir: the run's directory" in capsys.readouterr().out
