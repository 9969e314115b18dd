"""The program for Spark in docs/guide/scale.md runs as it stands, where Java and Spark are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bson
import pytest

from product_mil.runs.predict_units import Job, UnitPredictor
from product_mil.runs.units import units_of
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT

DOCUMENT = ROOT / "docs" / "guide" / "scale.md"


@pytest.mark.slow
def test_spark(trained: Path, sample: SampleFiles, tmp_path: Path, cache_of_tests: Path) -> None:
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "joint").symlink_to(trained)
    (tmp_path / "dumps").mkdir()
    records = bson.decode_all(sample.train.read_bytes())
    for number in range(3):
        encoded = b"".join(map(bson.encode, records[number::3]))
        (tmp_path / "dumps" / f"{number}.bson").write_bytes(encoded)
    (tmp_path / "dumps" / "bad.bson").write_bytes(b"no dump")
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PRODUCT_MIL_CACHE": str(cache_of_tests),
        "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "program.py"]
    said = [
        subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    manifest = f"{tmp_path}/predicted/manifest.json: 4 units, 120 products; 1 units could not be"
    for text, counted in zip(said, ("3 predicted, 0 done", "0 predicted, 3 done"), strict=True):
        lines = text.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(manifest)
        assert lines[1] == f"{counted} before, failed: ['bad.bson']"

    units = units_of(f"{tmp_path}/dumps/[0-9].bson")
    job = Job(tmp_path / "runs" / "joint", tmp_path / "here", 1000.0)
    predictor = UnitPredictor(job)
    predictor.begin(units)
    assert all(outcome.done for outcome in predictor.outcomes(units))
    for kind in ("csv", "parquet"):
        for path in sorted((tmp_path / "here" / kind).iterdir()):
            assert (tmp_path / "predicted" / kind / path.name).read_bytes() == path.read_bytes()
