"""`product-mil plan` on a run and on data."""

import os
from pathlib import Path

import pytest

from product_mil.runs.measure_scale import measured_rates
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
    assert (
        lines[0] == f"measured on {sample.train} with small_cnn at 48 px on {os.cpu_count()} cores"
    )
    assert found["products"].split() == ["products", "1,000,000", "500,000", "given"]
    for what in ("images", "data", "index", "decode", "net"):
        assert found[what].endswith("measured")
    assert found["network"].endswith("given: 10 Gb/s")
    kb = sample.train.stat().st_size / 120 / 1e3
    assert found["data"].split()[1:3] == [f"{kb:.1f}", "GB"]
    assert ", limited by" in lines[-1]


@pytest.mark.slow
def test_what_is_not_the_users_own_is_named(
    trained: Path, sample: SampleFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product_mil.runs.measure_scale._MOST_S", 0.05)
    # A smaller sample and few images at once, because the net is a large one.
    monkeypatch.setattr("product_mil.runs.measure_scale.ensure_sample", lambda seed: sample)
    monkeypatch.setattr("product_mil.runs.measure_scale.prediction_slots", lambda **_: 2)
    rates, cores = measured_rates(None, None, None), f"on {os.cpu_count()} cores"
    assert rates.about == (
        "measured on the embedded sample with efficientnet_lite0 at 180 px (joint:laptop) "
        f"{cores}; name --data and --workdir for yours"
    )
    of_data = ("product_bytes", "images_per_product", "index_s", "decode_s")
    assert {rates.basis[name] for name in of_data} == {"sample"}
    assert rates.basis["forward_s"] == "joint:laptop"
    assert 0 < rates.forward_s < 60
    rates = measured_rates(None, trained, 10.0)
    assert rates.about == (
        f"measured on the embedded sample at 48 px {cores}; name --data for yours"
    )
    assert (rates.basis["decode_s"], rates.basis["forward_s"]) == ("sample", "given")
    rates = measured_rates(str(sample.train), None, 10.0)
    assert {rates.basis[name] for name in of_data} == {"measured"}
    assert rates.about.endswith(f" px (joint:laptop) {cores}; name --workdir for yours")


@pytest.mark.parametrize(
    "more",
    [
        ("--products", 0),
        ("--products", "inf"),
        ("--products", 1, "--hosts", 0),
        ("--products", 1, "--unit_mb", 0),
    ],
)
def test_refusals(more: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        call_tool("plan", *more)
    assert left.value.code == 2
    assert f"{more[-2]}={more[-1]}: must be more than 0" in capsys.readouterr().err
