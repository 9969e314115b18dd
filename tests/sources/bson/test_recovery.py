"""Damage to single records: what of them is kept, and that no later record is lost."""

import random
import struct
from pathlib import Path

import bson
import numpy as np
import pytest
from bson import Int64

from product_mil.sources.bson import recovery
from product_mil.sources.bson.index import BsonCatalogue, open_catalogue
from product_mil.sources.ids import NO_CATEGORY

NUM = 9
Encoded = list[bytearray]


def pictures_of(number: int) -> list[bytes]:
    rng = random.Random(number)
    return [b"\xff\xd8" + rng.randbytes(200 + 37 * k) + b"\xff\xd9" for k in range(1 + number % 4)]


def records() -> Encoded:
    return [
        bytearray(
            bson.encode(
                {
                    "_id": 100 + i,
                    "category_id": 7 * i,
                    "imgs": [{"picture": picture} for picture in pictures_of(i)],
                }
            )
        )
        for i in range(NUM)
    ]


def catalogue_of(tmp_path: Path, encoded: Encoded) -> BsonCatalogue:
    path = tmp_path / "a.bson"
    path.write_bytes(b"".join(encoded))
    return open_catalogue(path)


def found(catalogue: BsonCatalogue) -> dict[int, list[bytes]]:
    data = catalogue.paths[0].read_bytes()
    result = {}
    for row, product_id in enumerate(catalogue.product_id.tolist()):
        first = int(catalogue.first_image[row])
        images = range(first, first + int(catalogue.num_images[row]))
        at, length = catalogue.image_offset_bytes, catalogue.image_length_bytes
        result[product_id] = [data[at[i] : at[i] + length[i]] for i in images]
    return result


WANTED = {100 + i: pictures_of(i) for i in range(NUM)}


@pytest.mark.parametrize("which", [0, 3, NUM - 1])
@pytest.mark.parametrize("length", [-5, 0, 4, 5, 60, 700, 2500, 10_000, 2**31 - 1])
def test_a_destroyed_length_loses_nothing(tmp_path: Path, which: int, length: int) -> None:
    """Impossible, too short, into the middle of a later record, past the end."""
    encoded = records()
    encoded[which][:4] = struct.pack("<i", length)
    catalogue = catalogue_of(tmp_path, encoded)
    assert found(catalogue) == WANTED
    assert catalogue.category_id.tolist() == [7 * i for i in range(NUM)]
    assert (catalogue.num_bad_records, catalogue.unread_bytes) == (0, 0)
    ((_, fault),) = catalogue.faults
    assert (fault.product_id, fault.offset_bytes) == (100 + which, sum(map(len, encoded[:which])))
    assert fault.reason.startswith(f"wrong record length: {length} where the record has")


def test_neighbours_with_destroyed_lengths(tmp_path: Path) -> None:
    encoded = records()
    for which, length in ((2, -1), (3, 2**31 - 1), (4, 9000), (NUM - 1, 3)):
        encoded[which][:4] = struct.pack("<i", length)
    catalogue = catalogue_of(tmp_path, encoded)
    assert found(catalogue) == WANTED
    assert catalogue.fault_counts == {"wrong record length": 4}


def test_a_length_that_ends_at_a_later_record_hides_none(tmp_path: Path) -> None:
    encoded = records()
    encoded[2][:4] = struct.pack("<i", sum(map(len, encoded[2:5])))
    assert found(catalogue_of(tmp_path, encoded)) == WANTED


def test_lost_bytes_lose_only_what_they_held(tmp_path: Path) -> None:
    """A hole in the second picture: the first is kept, and so are all later products."""
    encoded = records()
    at = encoded[3].index(pictures_of(3)[1])
    del encoded[3][at + 20 : at + 90]
    catalogue = catalogue_of(tmp_path, encoded)
    pictures = found(catalogue)
    assert pictures.keys() == WANTED.keys()
    assert pictures[103][0] == pictures_of(3)[0]
    assert {k: v for k, v in pictures.items() if k != 103} == {
        k: v for k, v in WANTED.items() if k != 103
    }
    assert catalogue.category_id[3] == 21


def test_a_destroyed_frame_of_an_image_leaves_the_others(tmp_path: Path) -> None:
    encoded = records()
    at = encoded[3].index(b"\x031\0") + 3  # the length of the image's document
    encoded[3][at : at + 4] = struct.pack("<i", 2**30)
    catalogue = catalogue_of(tmp_path, encoded)
    assert found(catalogue) == WANTED
    assert catalogue.fault_counts == {"broken BSON structure": 1}


def test_a_lost_picture_keeps_its_place(tmp_path: Path) -> None:
    encoded = records()
    at = encoded[3].index(pictures_of(3)[1]) - 5
    encoded[3][at : at + 4] = struct.pack("<i", 2**30)
    encoded[3][-1] = 1  # the record is broken, and has to be searched
    catalogue = catalogue_of(tmp_path, encoded)
    one, _, three, four = pictures_of(3)
    assert found(catalogue) == WANTED | {103: [one, b"", three, four]}
    (_, broken), (_, lost) = catalogue.faults
    assert broken.image_index is None
    assert (lost.product_id, lost.image_index) == (103, 1)


def test_garbage_between_records_is_skipped_and_counted(tmp_path: Path) -> None:
    encoded = records()
    encoded.insert(4, bytearray(random.Random(0).randbytes(3_000_000)))
    catalogue = catalogue_of(tmp_path, encoded)
    assert found(catalogue) == WANTED
    assert catalogue.num_bad_records == 1
    assert "no usable _id; 3000000 bytes skipped" in catalogue.faults[0][1].reason


def test_a_destroyed_head_does_not_give_its_images_to_another(tmp_path: Path) -> None:
    """The product before has a destroyed length, so its end is searched for."""
    encoded = records()
    encoded[3][:4] = struct.pack("<i", -1)
    encoded[4][4:9] = b"\xee" * 5
    pictures = found(catalogue_of(tmp_path, encoded))
    assert pictures == {k: v for k, v in WANTED.items() if k != 104}


def test_lost_bytes_that_fit_by_chance_hide_no_record(tmp_path: Path) -> None:
    """The next record's picture has zeros just where the closing zeros are looked for."""
    encoded = records()
    at = encoded[4].index(pictures_of(4)[0])
    encoded[4][at + 100 : at + 103] = bytes(3)
    gone = at + 103  # of record 3, so that its end falls behind those zeros
    first = encoded[3].index(pictures_of(3)[3])
    del encoded[3][first + 20 : first + 20 + gone]
    catalogue = catalogue_of(tmp_path, encoded)
    pictures = found(catalogue)
    assert pictures.keys() == WANTED.keys()
    assert pictures[103][:3] == pictures_of(3)[:3]
    assert len(pictures[104][0]) == len(WANTED[104][0])
    others = WANTED.keys() - {103, 104}
    assert {k: pictures[k] for k in others} == {k: WANTED[k] for k in others}
    assert catalogue.fault_counts["broken BSON structure"] == 1


@pytest.mark.parametrize("neighbour", [{"imgs": []}, {"category_id": Int64(3)}])
def test_as_many_bytes_lost_as_the_next_record_has(
    tmp_path: Path, neighbour: dict[str, object]
) -> None:
    """Then no length and no closing zero is wrong, and yet the next record is found."""
    encoded = records()
    small = bytearray(bson.encode({"_id": 5, **neighbour}))
    encoded.insert(4, small)
    at = encoded[3].index(pictures_of(3)[3])
    del encoded[3][at + 20 : at + 20 + len(small)]
    catalogue = catalogue_of(tmp_path, encoded)
    pictures = found(catalogue)
    assert pictures == WANTED | {5: [], 103: [*pictures_of(3)[:3], b""]}
    assert "broken BSON structure" in catalogue.fault_counts
    assert catalogue.product_id.tolist().index(5) == 4


def test_records_without_an_id_are_reported_beside_damaged_ones(tmp_path: Path) -> None:
    """A neighbour with no `_id` has no head to be found by."""
    for damage in ("length", "closing", "hole"):
        encoded = records()
        nameless = bson.decode(encoded[4])
        del nameless["_id"]
        encoded[4] = bytearray(bson.encode(nameless))
        if damage == "length":
            encoded[3][:4] = struct.pack("<i", 2**31 - 1)
        elif damage == "closing":
            encoded[3][-1] = 7
        else:
            del encoded[3][-60:-30]
        catalogue = catalogue_of(tmp_path, encoded)
        pictures = found(catalogue)
        assert pictures.keys() == WANTED.keys() - {104}
        assert pictures[103][:3] == WANTED[103][:3]
        assert sum(fault.product_id is None for _, fault in catalogue.faults) == 1


def test_an_id_inside_a_field_is_no_record(tmp_path: Path) -> None:
    encoded = records()
    inner = {"_id": 5, "note": {"_id": 6, "x": 1}, "imgs": [{"_id": 3, "picture": b"abc"}]}
    encoded.insert(4, bytearray(bson.encode(inner)))
    encoded[4][:4] = struct.pack("<i", 2**31 - 1)
    assert found(catalogue_of(tmp_path, encoded)) == WANTED | {5: [b"abc"]}


def test_heads_across_the_borders_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = records()
    encoded[3][:4] = struct.pack("<i", -1)
    for block_bytes in (16, 23, 64):
        monkeypatch.setattr(recovery, "_BLOCK_BYTES", block_bytes)
        assert found(catalogue_of(tmp_path, encoded)) == WANTED


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_local(tmp_path: Path, seed: int) -> None:
    """Up to 30 bytes anywhere in a record are overwritten: its neighbours are whole."""
    rng = random.Random(seed)
    encoded = records()
    which = rng.randrange(NUM)
    start = rng.randrange(len(encoded[which]) - 4)
    for at in range(start, min(start + rng.randrange(1, 30), len(encoded[which]) - 3)):
        encoded[which][at] = rng.randrange(256)
    catalogue = catalogue_of(tmp_path, encoded)
    pictures = found(catalogue)
    others = {k: v for k, v in WANTED.items() if k != 100 + which}
    assert {k: v for k, v in pictures.items() if k in others} == others
    assert len(pictures) <= NUM
    assert np.all(catalogue.category_id != NO_CATEGORY) or catalogue.faults
