"""Lists of faults that several processes fill."""

from pathlib import Path

from product_mil.data.faults import FaultList
from product_mil.data.products import ImageFault


def fault(product: int, reason: str = "not a readable image") -> ImageFault:
    return ImageFault("a.bson", 10 * product, product, 0, reason)


def test_faults_are_passed_on_once(tmp_path: Path) -> None:
    first, second = FaultList(tmp_path / "all.csv"), FaultList(tmp_path / "own.csv")
    first.add([fault(1)])
    second.add([fault(1), fault(2)])
    rows = second.not_passed_on()
    assert [row[2] for row in rows] == ["1", "2"]
    first.add_listed(rows)
    second.add([fault(2), fault(3)])
    rows = second.not_passed_on()
    assert [row[2] for row in rows] == ["3"]
    first.add_listed(rows)
    assert second.not_passed_on() == []
    first.write()
    alone = FaultList(tmp_path / "alone.csv")
    alone.add([fault(1), fault(2), fault(3)])
    alone.write()
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
