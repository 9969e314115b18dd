import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import product_mil
from product_mil.cli.export_model import FORMATS
from product_mil.errors import UserError
from product_mil.runs.exporting import Format, export_model
from product_mil.runs.model_card import CardFacts
from product_mil.runs.opening import open_run
from product_mil.runs.usage import USES
from tests.scripts import call_tool


@pytest.fixture(scope="module")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "both"
    call_tool(
        "export_model", "--workdir", trained, "--output", directory,
        "--format", *FORMATS, "--license", "cc0-1.0", "--data_description", "Drawn *things*.",
        "--data_license", "CC0",
    )  # fmt: skip
    return directory


def test_what_is_written(written: Path, trained: Path) -> None:
    assert tuple(USES) == get_args(Format) == FORMATS
    assert {path.name for path in written.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "model.stablehlo"
    }  # fmt: skip
    card = (written / "README.md").read_text("utf-8")
    assert '\nlicense: "cc0-1.0"\n' in card
    assert "- Data: Drawn \\*things\\*\\.\n- Licence of the data: CC0\n" in card
    assert open_run(written).step == open_run(trained).step


WITHOUT_THE_PACKAGE = """
import sys

class JaxAlone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("product_mil", "flax", "orbax", "safetensors"):
            raise ImportError(name)

sys.meta_path.insert(0, JaxAlone())
import numpy as np
from jax import export
given = np.load("given.npz")
with open(sys.argv[1], "rb") as file:
    model = export.deserialize(bytearray(file.read()))
np.save("found.npy", model.call(given["images"], given["num_images"]))
assert "product_mil" not in sys.modules
"""


@pytest.mark.slow
def test_stable_hlo_without_the_package(written: Path, trained: Path, tmp_path: Path) -> None:
    counts = [2, 0, 4, 1]
    images = np.random.default_rng(1).integers(0, 256, (7, 48, 48, 3), dtype=np.uint8)
    np.savez(tmp_path / "given.npz", images=images, num_images=np.array(counts, np.int32))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, written / "model.stablehlo"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    products = [list(part) for part in np.split(images, np.cumsum(counts)[:-1])]
    wanted = product_mil.load(trained).predict_proba(products)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, rtol=0, atol=1e-6)


def test_the_example_of_the_card(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (written / "README.md").read_text("utf-8")
    example = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    monkeypatch.chdir(written.parent)
    exec(example, names := {})
    classifier = product_mil.load(written)
    black = np.zeros((48, 48, 3), np.uint8)
    wanted = classifier.predict_proba([[black, black], [black]])
    np.testing.assert_allclose(names["probabilities"], wanted, rtol=0, atol=1e-6)
    best = classifier.category_ids[wanted.argmax(1)].tolist()
    assert json.loads(capsys.readouterr().out) == best


def test_one_format_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_tool("export_model", "--workdir", trained, "--output", tmp_path / "m",
              "--format", "stablehlo")  # fmt: skip
    said = capsys.readouterr().out
    path = tmp_path / "m" / "README.md"
    assert f"{path}: {path.stat().st_size / 1e3:.1f} kB\n" in said
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "README.md", "config.json", "model.stablehlo"
    }  # fmt: skip
    assert "product_mil.load" not in (tmp_path / "m" / "README.md").read_text("utf-8")
    with pytest.raises(UserError, match=r"safetensors: no such file; .* --format pretrained"):
        open_run(tmp_path / "m")
    call_tool("export_model", "--workdir", trained, "--output", tmp_path / "m")  # ours: replaced
    open_run(tmp_path / "m")
    with pytest.raises(SystemExit):
        call_tool("export_model", "--workdir", trained, "--output", tmp_path / "n", "--format", "x")
    assert "--format: invalid choice: 'x'" in capsys.readouterr().err


def test_what_python_computes_on_the_host(trained: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    run = open_run(trained)
    config = replace(run.config, model=replace(run.config.model, backbone="hand_made"))
    with pytest.raises(UserError, match="hand_made is computed by Python on the host, and cannot"):
        export_model(replace(run, config=config), tmp_path / "m", CardFacts(), ["stablehlo"])
    assert not list(tmp_path.iterdir())
