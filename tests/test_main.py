"""The command line as a person meets it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from product_mil.main import main

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "product_mil.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# The other process never comes.
JOINED = ("--coordinator=127.0.0.1:9", "--num_processes=2", "--process_id=1")


def refused(*arguments: str) -> str:
    """The one screen of a command that must fail with exit status 2 and no traceback."""
    result = command(*arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr


@pytest.fixture
def refused_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """As `refused`, but in this process, which has imported JAX already."""
    monkeypatch.chdir(ROOT)

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        said = capsys.readouterr()
        assert left.value.code == 2
        assert said.err.startswith("error: ")
        assert said.out == ""
        return said.err

    return refused


def test_all_errors_at_once() -> None:
    text = refused(
        "--config=configs/joint.py:smoke",
        "--config.sede=1",
        "--config.seed=x",
        "--config.data.shards=3",
        "--config.model.backbone=vgg",
        "--config.finetune.epochs=-5",
        "--bogus=3",
        "stray",
    )
    for part in (
        "did you mean config.seed?",
        "config.seed=x: expected a whole number",
        "config.finetune.images_per_batch=32: must be a multiple",
        "config.model.backbone",
        "config.finetune.epochs=-5",
        "--bogus=3",
        "stray",
    ):
        assert part in text


def test_unknown_argument_with_the_other_errors() -> None:
    text = refused("--config=configs/joint.py:foo", "--config.sede=1", "--bogus")
    for part in ("':foo'", "':smoke'", "did you mean config.seed?", "--bogus"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--config=joint"),
        (("--config=nowhere.py",), "there is no file nowhere.py"),
        (
            ("--config",),
            "Missing value for flag --config; see python -m product_mil.main --help",
        ),
    ],
)
def test_one_line(arguments: tuple[str, ...], part: str) -> None:
    text = refused(*arguments)
    assert part in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ("--coordinator=127.0.0.1:1234",),
            "give --coordinator, --num_processes and --process_id together",
        ),
        (("--distributed", "--process_id=0"), "leave out --coordinator"),
        (("--num_processes=two",), "--num_processes"),
    ],
)
def test_who_takes_part_is_told_in_full(
    arguments: tuple[str, ...], part: str, refused_here: Callable[..., str]
) -> None:
    assert part in refused_here("--config=configs/joint.py:smoke", *arguments)


@pytest.mark.slow
def test_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    text = refused("--config=configs/joint.py:smoke", "--distributed")
    assert "no launcher is known here" in text


@pytest.mark.parametrize("together", [("--distributed",), JOINED])
def test_a_typing_error_is_refused_before_the_others_are_waited_for(
    together: tuple[str, ...], refused_here: Callable[..., str]
) -> None:
    text = refused_here(
        "--config=configs/joint.py:smoke",
        "--config.sede=1",
        "--config.model.backbone=vgg",
        "--config.data.train=nowhere.bson",
        *together,
    )
    for part in ("did you mean config.seed?", "config.model.backbone", "nowhere.bson"):
        assert part in text


def test_a_wrong_file_claims_no_directory(tmp_path: Path, refused_here: Callable[..., str]) -> None:
    (tmp_path / "text.bson").write_text("this is no BSON, but a text of some length\n" * 9)
    text = refused_here(
        "--config=configs/joint.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.train={tmp_path / 'text.bson'}",
    )
    assert "text.bson" in text
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused(tmp_path: Path, refused_here: Callable[..., str]) -> None:
    from product_mil.config import load_config

    stored = load_config(f"{ROOT / 'configs/joint.py'}:smoke").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(stored))
    text = refused_here(
        "--config=configs/joint.py:smoke",
        f"--workdir={tmp_path}",
        "--config.seed=9",
        "--config.data.threads=1",
    )
    assert "config.seed: the run has 0, you ask for 9" in text
    assert "threads" not in text
    assert f"{tmp_path} holds a run of another configuration; choose another --workdir" in text
    (tmp_path / "config.json").write_text("{")
    assert "damaged" in refused_here("--config=configs/joint.py:smoke", f"--workdir={tmp_path}")
