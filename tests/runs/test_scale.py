"""The model of scale.py against figures that were measured, or computed by hand."""

import pytest

from product_mil.errors import UserError
from product_mil.runs.scale import GIVEN, MEASURED, Line, Machines, Plan, Rates, plan

# Cdiscount's shape, and an H100 whose memory bounds Inception V3.
RATES = Rates(
    product_bytes=8_300.0,
    images_per_product=1.75,
    index_s=2.0e-6,
    decode_s=1 / 15_300,
    forward_s=1 / 146_000,
    process_bytes=2e9,
    basis={"index_s": MEASURED, "forward_s": GIVEN},
)


def line(made: Plan, what: str) -> Line:
    return next(one for one in made.lines if one.what == what)


@pytest.mark.parametrize(
    ("products", "data", "index", "network", "decode", "forward", "indexes", "tables", "csv"),
    [
        (7e6, "58.1 GB", 0.004, 0.013, 0.22, 0.023, "623.0 MB", "609.0 MB", "147.0 MB"),
        (1e9, "8.3 TB", 0.56, 1.84, 32, 3.3, "89.0 GB", "87.0 GB", "21.0 GB"),
        (30e9, "249.0 TB", 16.7, 55.3, 953, 100, "2.7 TB", "2.6 TB", "630.0 GB"),
    ],
)
def test_the_table_of_scale(
    products: float, data: str, index: float, network: float, decode: float, forward: float,
    indexes: str, tables: str, csv: str,
) -> None:  # fmt: skip
    made = plan(products, Machines(1, 1, 1, 10.0), RATES, 1000.0)
    for what, wanted in (("data", data), ("indexes on disk", indexes), ("Parquet files", tables)):
        assert line(made, what).of_all == wanted
    assert line(made, "CSV files").of_all == csv
    for what, hours in (
        ("index", index), ("network", network), ("decode", decode), ("net", forward)
    ):  # fmt: skip
        found = float(line(made, what).of_all.split()[0].replace(",", ""))
        assert found == pytest.approx(hours, rel=0.02, abs=0.05)


def test_what_takes_longest_decides() -> None:
    made = plan(30e9, Machines(100, 10, 1, 10.0), RATES, 1000.0)
    # 10 minutes of index, and 1 hour of the net; 34 minutes of network meanwhile.
    assert made.limit == "the net"
    assert made.hours == pytest.approx(16.7 / 100 + 1.0, rel=0.01)
    assert line(made, "network") == Line("network", "55.3 host-h", "33 min", "given: 10 Gb/s")
    assert line(made, "units").of_all == "249,000"
    assert plan(30e9, Machines(100, 8, 1, 10.0), RATES, 1000.0).limit == "decoding"
    slow = plan(30e9, Machines(100, 10, 1, 1.0), RATES, 1000.0)
    assert (slow.limit, slow.hours) == ("the network", pytest.approx(5.53, rel=0.01))
    halved = plan(30e9, Machines(200, 10, 1, 10.0), RATES, 1000.0)
    assert halved.hours == pytest.approx(made.hours / 2)


def test_every_line_says_how_it_is_known() -> None:
    made = plan(1e6, Machines(2, 4, 1, 10.0), RATES, 500.0)
    basis = {one.what: one.basis for one in made.lines}
    assert basis["index"] == "measured"
    assert basis["net"] == "given, assumed"
    assert basis["decode"] == "assumed"
    assert all(basis.values())
    text = made.text.splitlines()
    assert len(text) == len(made.lines) + 2
    assert text[-1].endswith(f", limited by {made.limit}")


@pytest.mark.parametrize("name", ["hosts", "cores", "devices", "gbit_per_s"])
def test_machines_that_there_are_not(name: str) -> None:
    values = {
        "hosts": 1,
        "cores": 1,
        "devices": 1,
        "gbit_per_s": 1.0,
        name: 0.0 if name == "gbit_per_s" else 0,
    }
    with pytest.raises(UserError, match=f"--{name}=0: must be more than 0"):
        Machines(**values)
