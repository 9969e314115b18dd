"""`product-mil plan` on a run and on data."""

from pathlib import Path

import pytest

from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool


def test_it_measures_and_says_so(
    trained: Path, sample: SampleFiles, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("product_mil.runs.measure_scale._MOST_S", 0.05)
    call_tool(
        "plan", "--products", "1e6", "--hosts", 2, "--workdir", trained, "--data", sample.train,
        "--cores", 3, "--devices", 1,
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    found = {" ".join(line.split()[:1]): line for line in lines}
    assert found["products"].split() == ["products", "1,000,000", "500,000", "given"]
    for what in ("images", "data", "index", "decode", "net"):
        assert found[what].endswith("measured")
    assert found["network"].endswith("given: 10 Gb/s")
    kb = sample.train.stat().st_size / 120 / 1e3
    assert found["data"].split()[1:3] == [f"{kb:.1f}", "GB"]
    assert "in all, limited by" in lines[-1]


@pytest.mark.parametrize(
    "more", [("--products", 0), ("--products", 1, "--hosts", 0), ("--products", 1, "--unit_mb", 0)]
)
def test_refusals(more: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        call_tool("plan", *more)
    assert left.value.code == 2
    assert f"{more[-2]}=0: must be more than 0" in capsys.readouterr().err
