import random
import struct
import uuid
from datetime import UTC, datetime

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from product_mil.sources.bson.document import RecordError, parse_record
from product_mil.sources.catalogue import kind_of


def encode(**fields: object) -> bytes:
    return bson.encode(fields)


def pictures_of(data: bytes, offset: int = 0) -> list[bytes]:
    return [data[at - offset : at - offset + n] for at, n in parse_record(data, offset).pictures]


def random_value(rng: random.Random, depth: int = 0) -> object:
    values: list[object] = [
        rng.random(), "text \0 é", rng.randbytes(5), ObjectId(), True, None,
        datetime(2017, 9, 14, tzinfo=UTC), Regex("a+", "i"), Code("f()"), Code("f()", {"x": 1}),
        rng.randrange(-(2**31), 2**31), Timestamp(1, 2), Int64(rng.randrange(2**62)),
        Decimal128("1.5"), MinKey(), MaxKey(), Binary(rng.randbytes(4), 4),
    ]  # fmt: skip
    if depth < 3:
        values.append({"picture": random_value(rng, depth + 1), "_id": 3})
        values.append([random_value(rng, depth + 1) for _ in range(3)])
    return rng.choice(values)


@pytest.mark.parametrize("seed", range(200))
def test_finds_what_pymongo_finds(seed: int) -> None:
    rng = random.Random(seed)
    number = rng.choice([7, Int64(2**40), 7.0, -3, Int64(1 - 2**63), 2.0**53])
    images = [rng.randbytes(rng.randrange(50)) for _ in range(rng.randrange(1, 14))]
    fields: list[tuple[str, object]] = [
        ("_id", number),
        ("category_id", rng.choice([5, Int64(5), 5.0])),
    ]
    fields.append(
        (
            "imgs",
            [
                {"x": random_value(rng), "picture": Binary(image, rng.choice([0, 2, 5, 128]))}
                for image in images
            ],
        )
    )
    fields += [(f"extra{i}", random_value(rng)) for i in range(rng.randrange(8))]
    rng.shuffle(fields)
    data = bson.encode(dict(fields))
    record = parse_record(data, 1000)
    assert (record.product_id, record.category_id, record.faults) == (int(number), 5, [])
    assert type(record.product_id) is int
    assert pictures_of(data, 1000) == images


@pytest.mark.parametrize(
    ("fields", "category", "num_pictures", "reason"),
    [
        ({"category_id": b"12", "imgs": [{"picture": b"a"}]}, None, 1, "category_id is not"),
        ({"category_id": 1.5, "imgs": [{"picture": b"a"}]}, None, 1, "category_id is not"),
        ({"category_id": float("nan"), "imgs": [{"picture": b"a"}]}, None, 1, "category_id is"),
        ({"category_id": 3, "imgs": "none"}, 3, 0, "imgs is not an array"),
        ({"category_id": 3}, 3, 0, "no field imgs"),
        ({"category_id": 3, "imgs": []}, 3, 0, "imgs is empty"),
        ({"imgs": [{"picture": "text"}, {"picture": b"b"}]}, None, 2, "without a binary picture"),
        ({"imgs": [7, {"picture": b"b"}]}, None, 2, "without a binary picture"),
        ({"imgs": [{"pic": b"a"}]}, None, 1, "without a binary picture"),
    ],
)
def test_a_mistyped_field_leaves_the_product(
    fields: dict[str, object], category: int | None, num_pictures: int, reason: str
) -> None:
    record = parse_record(encode(_id=9, **fields), 500)
    assert (record.product_id, record.category_id) == (9, category)
    assert len(record.pictures) == num_pictures
    (fault,) = record.faults
    assert reason in fault.reason
    assert fault.product_id == 9
    assert fault.offset_bytes is not None
    assert fault.offset_bytes >= 500
    lost = [k for k, (_, length) in enumerate(record.pictures) if length == 0]
    assert lost == ([] if fault.image_index is None else [fault.image_index])


def test_an_absent_or_null_category_is_no_fault() -> None:
    for fields in ({}, {"category_id": None}):
        record = parse_record(encode(_id=1, imgs=[{"picture": b"x"}], **fields), 0)
        assert (record.category_id, record.faults) == (None, [])


OTHERS = {
    "the string '', and it is empty": "",
    f"the string '{'4' * 40}...', and it has 201 characters, more than 200": "4" * 201,
    "the string 'é\\n\\x00', and it has a character that text cannot have (a zero or half of a "
    "pair)": "é\n\0",
    "the number 7.5": 7.5,
    "the number inf": float("inf"),
    "the number nan": float("nan"),
    f"the number {-(2.0**63)!r}": -(2.0**63),
    f"the number {-(2**63)}, which stands for no id": Int64(-(2**63)),
    f"the number {2.0**63!r}": 2.0**63,
    "binary data": b"abc",
    "null": None,
    "a boolean": True,
    "a date": datetime(2024, 1, 1, tzinfo=UTC),
    "a document": {"$numberLong": "1"},
    "an array": [1],
    "a Decimal128": Decimal128("12"),
    "a timestamp": Timestamp(1, 1),
    "of the BSON type 0x7f": MaxKey(),
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (Int64(-(2**62)), -(2**62)),
        (7.0, 7),
        ("7", "7"),
        (" é\n", " é\n"),
        (ObjectId("507f1f77bcf86cd799439011"), "507f1f77bcf86cd799439011"),
        (
            Binary(uuid.UUID("12345678-1234-5678-1234-567812345678").bytes, 4),
            "12345678-1234-5678-1234-567812345678",
        ),
        (
            Binary(uuid.UUID("12345678-1234-5678-1234-567812345678").bytes, 3),
            "12345678-1234-5678-1234-567812345678",
        ),
    ],
)
def test_ids(value: object, expected: int | str) -> None:
    record = parse_record(encode(_id=value, category_id=value, imgs=[{"picture": b"x"}]), 40)
    assert (record.product_id, record.category_id) == (expected, expected)
    assert record.faults == []


@pytest.mark.parametrize("what", OTHERS)
def test_a_value_of_another_type_is_reported_as_what_it_is(what: str) -> None:
    with pytest.raises(RecordError) as error:
        parse_record(encode(_id=OTHERS[what], imgs=[{"picture": b"x"}]), 40)
    assert str(error.value) == f"byte 40: no usable _id: it is {what}"
    assert kind_of(error.value.fault.reason) == "no usable _id"
    record = parse_record(encode(_id=9, category_id=OTHERS[what], imgs=[{"picture": b"x"}]), 40)
    expected = [] if what == "null" else [f"category_id is not usable: it is {what}"]
    assert [fault.reason for fault in record.faults] == expected
    record = parse_record(encode(_id=9, imgs=[{"picture": OTHERS[what]}, {"picture": b"x"}]), 40)
    expected = [f"an image without a binary picture: it is {what}"]
    binary = isinstance(OTHERS[what], bytes)
    assert [fault.reason for fault in record.faults] == expected * (not binary)


def test_without_any_id_there_is_no_product() -> None:
    with pytest.raises(RecordError, match="byte 40: no usable _id: there is no field"):
        parse_record(encode(op="i", o={"_id": 3}), 40)


def test_the_last_of_a_repeated_field_counts_as_in_pymongo() -> None:
    body = encode(_id=1, imgs=[{"picture": b"a"}])[4:-1] + encode(_id=2)[4:-1]
    data = struct.pack("<i", len(body) + 5) + body + b"\0"
    assert bson.decode(data)["_id"] == parse_record(data, 0).product_id == 2


def test_an_image_with_broken_insides_keeps_its_place() -> None:
    data = bytearray(encode(_id=1, imgs=[{"picture": b"aaaa"}, {"picture": b"bbbb"}]))
    at = data.index(b"picture\0") + 8
    data[at : at + 4] = struct.pack("<i", 10_000)
    record = parse_record(data, 0)
    assert pictures_of(bytes(data)) == [b"", b"bbbb"]
    assert [fault.reason for fault in record.faults] == ["an image without a binary picture"]
    assert record.faults[0].image_index == 0


def test_every_truncation_is_an_error() -> None:
    data = encode(_id=1, category_id=2, imgs=[{"picture": b"abc"}], note="n")
    for length in range(len(data)):
        with pytest.raises(RecordError):
            parse_record(data[:length], 0)


def test_random_bytes_neither_crash_nor_point_outside() -> None:
    rng = random.Random(0)
    whole = encode(
        _id=1, note={"a": [1, "b"]}, category_id=2, imgs=[{"picture": b"abc" * 5}, {"picture": b""}]
    )
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(4, len(data))] = rng.choice(
                [0, 1, 2, 3, 4, 5, 255, rng.randrange(256)]
            )
        try:
            record = parse_record(memoryview(data), 100)
        except RecordError:
            continue
        for at, length in record.pictures:
            assert at >= 100
            assert length >= 0
            assert at + length <= 100 + len(data)
