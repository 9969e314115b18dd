import pickle
from pathlib import Path

import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.sources.opening import check_sources, open_catalogue
from tests.sources.of_products import (
    PRODUCTS,
    Product,
    as_contents,
    contents,
    csv_of_lists,
    dump,
    folder,
    jpeg,
    parquet_of_bytes,
)


def test_sources_of_any_kind_together(tmp_path: Path) -> None:
    parts = [
        dump(tmp_path / "a.bson", PRODUCTS[:1]),
        folder(tmp_path / "photos", PRODUCTS[1:2]),
        csv_of_lists(tmp_path / "b.csv", PRODUCTS[2:3]),
        parquet_of_bytes(tmp_path / "c.parquet", PRODUCTS[3:]),
    ]
    found = open_catalogue(",".join(map(str, parts)))
    assert contents(found) == as_contents()
    assert found.paths == tuple(parts)
    rows = np.array([6, 0, 5, 2, 2])
    wanted = [jpeg(1), jpeg(1), jpeg(6), jpeg(3), jpeg(3)]
    reader = pickle.loads(pickle.dumps(found.reader()))
    assert list(reader.read(found.addresses(rows))) == wanted
    assert contents(pickle.loads(pickle.dumps(found))) == as_contents()
    files = [found.place_of_product(row).file for row in range(4)]
    beside = [str(parts[1] / "1000" / "8" / "0.jpg"), str(tmp_path / "9-0.jpg")]
    assert files == [str(parts[0]), *beside, str(parts[3])]
    assert found.place_of_image(6).file == str(parts[3])


def test_the_first_record_of_an_id_counts(tmp_path: Path) -> None:
    again = [Product(8, 3000, [jpeg(50)]), Product(12, 1000, [])]
    one, other = dump(tmp_path / "a.bson"), folder(tmp_path / "photos", again)
    found = open_catalogue([one, other])
    assert found.first_records().tolist() == [0, 1, 2, 3, 4]
    counts = {"product id occurs again": 1, "the folder has no image": 1}
    assert found.fault_counts == counts
    assert [fault.product_id for _, fault in found.faults] == [12, 8]
    assert found.fingerprint != open_catalogue([other, one]).fingerprint


def test_every_source_is_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    dump(tmp_path / "a.bson")
    (tmp_path / "b.bson").write_bytes(b"\x89PNG\r\n\x1a\n")
    for look in (check_sources, open_catalogue):
        with pytest.raises(UserError, match=r"b\.bson is a PNG image, no dump, folder or table"):
            look(f"{tmp_path}/a.bson,{tmp_path}/b.bson")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bson", "b.bson"]
    with pytest.raises(UserError, match=r"a\.bson holds one collection; leave out the #"):
        open_catalogue(f"{tmp_path}/a.bson#products")
