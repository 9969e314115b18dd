"""The head of docs/guide/adding-a-head.md is all that it takes: it is trained and compared."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import product_mil
from product_mil.compare.training import side_by_side
from product_mil.main import main
from product_mil.model.registry import HEAD_SPECS, HEADS
from product_mil.sources.sample.draw import SampleFiles
from tests.model.heads.head_cases import SEGMENT, X, built_head, head_model, run
from tests.scripts import ROOT, call_tool

DOCUMENT = ROOT / "docs" / "guide" / "adding-a-head.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def forget() -> None:
    """What is registered by hand; a process that starts knows nothing of it."""
    for name in HEADS.keys() - {spec.name for spec in HEAD_SPECS}:
        del HEADS[name]


@pytest.fixture
def here(tmp_path: Path, sample: SampleFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the page's file, and products with labels."""
    (code,) = blocks("python")
    (tmp_path / "my_head.py").write_text(code, encoding="utf-8")
    (tmp_path / "labelled.bson").symlink_to(sample.train)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget()


@pytest.mark.slow
def test_the_commands(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (commands,) = blocks("bash")
    lines = [shlex.split(line) for line in commands.replace("\\\n", " ").splitlines()]
    train, evaluate, compare = ([part for part in line if part != "python"] for line in lines)
    assert train[:2] == ["-m", "product_mil.main"]
    main(train[2:])

    forget()
    capsys.readouterr()
    with_import = evaluate.index("--import")
    without = evaluate[1:with_import] + evaluate[with_import + 2 :]
    with pytest.raises(SystemExit):
        call_tool("evaluate", *without)
    said = capsys.readouterr().err
    assert said.startswith("error: head 'mean_and_max' is not known; choose one of probabilities,")
    assert "--import FILE.py" in said
    assert said.count("\n") == 1
    with pytest.raises(product_mil.UserError, match=r"product_mil\.heads\.register"):
        product_mil.load("runs/mine")
    assert evaluate[0] == "tools/evaluate.py"
    call_tool("evaluate", *evaluate[1:])
    assert "mean_and_max over small_cnn" in capsys.readouterr().out
    assert product_mil.load("runs/mine").summary.startswith("runs/mine: mean_and_max over")

    forget()
    assert compare[0] == "tools/compare.py"
    monkeypatch.setattr(side_by_side, "_cores", lambda: [0, 1])
    call_tool("compare", *compare[1:])  # in processes of their own, which register it too
    assert "4 runs, 2 at a time" in capsys.readouterr().out
    found = json.loads((here / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert found["runs"]["mine"]["seeds"] == found["runs"]["averaged"]["seeds"] == 2
    assert found["differing_fields"].keys() == {"model.pooling"}
    page = (here / "comparison" / "index.html").read_text(encoding="utf-8")
    assert "mean and maximum of the embeddings, classified" in page
    forget()
    with pytest.raises(SystemExit):
        call_tool(
            "compare", "--runs", "a=comparison/runs/mine-0", "b=comparison/runs/averaged-0",
            "--data", "labelled.bson", "--output", "again",
        )  # fmt: skip
    assert "error: comparison/runs/mine-0: head 'mean_and_max' is not" in capsys.readouterr().err


def test_its_values(here: Path) -> None:
    from product_mil.cli.imports import import_file

    import_file(here / "my_head.py")
    model = head_model("mean_and_max")
    output = run(model)
    kernel, bias = (
        np.asarray(of[...]) for of in (model.head.classify.kernel, model.head.classify.bias)
    )
    for shard, product in ((0, 0), (0, 1), (0, 2), (1, 0)):
        own = X[shard][SEGMENT[shard] == product]
        wanted = np.concatenate([own.mean(0), own.max(0)]) @ kernel + bias
        np.testing.assert_allclose(output.logits[shard, product], wanted, rtol=1e-5, atol=1e-5)
    assert built_head("mean_and_max", 8, 5).classify.kernel.shape == (16, 5)
    assert jnp.isfinite(output.attention).all()
