"""Which units there are follows from names and sizes alone."""

from pathlib import Path

import bson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from product_mil.errors import UserError
from product_mil.runs.units import units_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, size_bytes in (("b.bson", 2_500_000), ("a.bson", 10), ("day 1/a.bson", 10)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bson.encode({"_id": 1, "imgs": []}).ljust(size_bytes, b"\1"))
    return tmp_path


def test_a_large_file_is_cut_into_parts_that_have_every_row_once(here: Path) -> None:
    units = units_of("*.bson", 1.0)
    assert [unit.name for unit in units] == [
        "a.bson", "b.bson.1-of-3", "b.bson.2-of-3", "b.bson.3-of-3",
    ]  # fmt: skip
    for count in (0, 1, 2, 3, 100, 7_069_896):
        rows = [
            row for unit in units[1:] for row in (unit.rows(count).start, unit.rows(count).stop)
        ]
        assert rows[0] == 0
        assert rows[-1] == count
        assert rows[1:-1:2] == rows[2::2]
        assert units[0].rows(count) == slice(0, count)
    assert [unit.name for unit in units_of(f"{here}/*.bson", 2.5)] == ["a.bson", "b.bson"]
    assert len(units_of("b.bson", 2.4)) == 2


def test_names_do_not_depend_on_what_else_is_there(here: Path) -> None:
    assert [unit.name for unit in units_of("*/a.bson")] == ["day 1__a.bson"]
    (here / "day 2").mkdir()
    (here / "day 2" / "a.bson").write_bytes((here / "a.bson").read_bytes())
    found = [(unit.name, unit.spec) for unit in units_of(f"{here}/*/a.bson")]
    assert found == [(f"day {n}__a.bson", f"{here}/day {n}/a.bson") for n in (1, 2)]
    with pytest.raises(UserError, match=r"^a.bson and day 1/a.bson have the same name"):
        units_of("a.bson,day 1/a.bson")
    long = here / ("é" * 120 + ".bson")
    long.write_bytes((here / "a.bson").read_bytes())
    (name,) = (unit.name for unit in units_of(str(long)))
    assert len(f"{name}.parquet".encode()) <= 255
    assert name.startswith("é" * 80)


def test_a_table_weighs_as_much_as_its_images(here: Path) -> None:
    rows = "".join(f"{row},images/{row}.jpg\n" for row in range(2_000))
    (here / "t.csv").write_text("id,images\n" + rows)
    assert len(units_of("t.csv", 1.0)) == -(-64 * (here / "t.csv").stat().st_size // 1_000_000)
    assert [unit.spec for unit in units_of("t.csv#id=id,images=images", 1.0)][:1] == [
        "t.csv#id=id,images=images"
    ]
    table = pa.table({"id": range(1_000), "images": ["a.jpg"] * 1_000})
    pq.write_table(table, here / "t.parquet")
    assert len(units_of("t.parquet", 1.0)) == 5
    assert len(units_of("t.parquet", 10.0)) == 1


def test_the_state_of_a_file_changes_with_it(here: Path) -> None:
    (unit,) = units_of("a.bson")
    before = unit.state()
    assert before
    assert unit.state() == before
    (here / "a.bson").write_bytes((here / "a.bson").read_bytes() + b"\0")
    assert unit.state() != before


def test_what_cannot_be_cut_into_units_is_refused(here: Path) -> None:
    for spec, size, message in (
        ("mongodb://localhost/a.b", 1.0, "is no file that stays"),
        ("*.bson", 0.0, r"--unit_mb=0: must be more than 0"),
        ("none*.bson", 1.0, "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            units_of(spec, size)
