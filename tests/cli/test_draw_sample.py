from pathlib import Path

import bson
import pytest

from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool


def test_products_of_its_own(
    sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn"
    call_tool("draw_sample", "--output", drawn, "--products", 50)
    assert "50 products of seed 1" in capsys.readouterr().out
    assert {path.name for path in drawn.iterdir()} == {"products.bson", "category_names.csv"}
    assert (drawn / "category_names.csv").read_bytes() == sample.categories.read_bytes()
    records, known = (
        bson.decode_all(path.read_bytes()) for path in (drawn / "products.bson", sample.train)
    )
    assert len(records) == 50
    assert not {r["_id"] for r in records} & {r["_id"] for r in known}
    images, seen = (
        {image["picture"] for record in some for image in record["imgs"]}
        for some in (records, known)
    )
    assert len(images) >= 50
    assert not images & seen
    assert {r["category_id"] for r in records} <= {r["category_id"] for r in known} | {
        int(line.split(",")[0]) for line in sample.categories.read_text().splitlines()[1:]
    }


@pytest.mark.parametrize("wrong", [("--seed", -1), ("--products", 0), ("--products", 10**9)])
def test_refusals(
    wrong: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        call_tool("draw_sample", "--output", tmp_path / "d", *wrong)
    assert left.value.code == 2
    assert "must be from" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
