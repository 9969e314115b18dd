"""Data that cannot be trained or measured on get messages that say what is wrong."""

from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest
from bson import ObjectId

from product_mil.config import Config, DataConfig, StageConfig
from product_mil.errors import UserError
from product_mil.runs.data import build_data
from tests.sources.of_products import folder

CATEGORIES = (1000010653, 1000010654, 1000010655, 1000010656)


def product(number: int, category: Any, *pictures: bytes, **fields: Any) -> dict[str, Any]:
    images = [{"picture": picture} for picture in pictures or [b"photo %d" % number]]
    labelled = {} if category is None else {"category_id": category}
    return {"_id": number, **labelled, "imgs": images, **fields}


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_bytes(b"".join(map(bson.encode, records)))
    return str(path)


def usual(count: int = 40) -> list[dict[str, Any]]:
    return [product(i, CATEGORIES[i % 4]) for i in range(count)]


def message_for(tmp_path: Path, train: list[dict[str, Any]], **fields: Any) -> str:
    spec = write(tmp_path / "train.bson", train)
    with pytest.raises(UserError) as error:
        build_data(Config(data=DataConfig(train=spec, **fields)))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(("count", "each"), [(40, "each of its 40 categories has"), (2, "each of")])
def test_categories_with_one_product_each(tmp_path: Path, count: int, each: str) -> None:
    message = message_for(tmp_path, [product(i, 1000 + i) for i in range(count)])
    assert message.startswith("train.bson: no product can be set aside for validation: " + each)
    assert "categories has one product only" in message
    assert message.endswith("or name labelled products in config.data.valid")
    assert "config.data.categories" not in message


def test_one_product_and_one_too_few_for_the_fraction(tmp_path: Path) -> None:
    assert "validation: there is one product only" in message_for(tmp_path, usual(1))
    two = [product(i, 7) for i in range(2)]
    assert "config.data.valid_fraction=0.2 of 2 products is none" in message_for(tmp_path, two)
    data = DataConfig(train=write(tmp_path / "train.bson", two), valid_fraction=0.5)
    assert len(build_data(Config(data=data)).valid) == 1


@pytest.mark.parametrize("depth", [0, 1, 2, 4, 6])
def test_losses_at_levels_that_have_no_groups(tmp_path: Path, depth: int) -> None:
    """Each tree has losses down to the level above its last one. 0: no file, one level of ids."""
    levels = max(depth, 1)
    spec, names, path = write(tmp_path / "train.bson", usual()), "", tmp_path / "names.csv"
    if depth:
        header = ["category_id", *(f"category_level{n}" for n in range(1, depth + 1))]
        rows = [header, *([str(number), *"abcdef"[:depth]] for number in CATEGORIES)]
        path.write_text("".join(",".join(row) + "\n" for row in rows))
        names = str(path)
    for level in range(1, 6):
        weight: Any = {f"level{level}_loss": 0.5}
        config = Config(
            data=DataConfig(train=spec, categories=names), finetune=StageConfig(**weight)
        )
        if level < levels:
            assert build_data(config).categories.depth == levels
            continue
        with pytest.raises(UserError) as error:
            build_data(config)
        assert str(error.value) == (
            f"config.finetune.level{level}_loss=0.5: the category tree has {levels} "
            f"level{'s' * (levels > 1)}, and the last one is the category itself, which has its "
            "own loss"
        )


def test_too_few_products_drawn(tmp_path: Path) -> None:
    many = [product(i, i // 2) for i in range(200)]
    message = message_for(tmp_path, many, max_products=2)
    assert "train.bson (config.data.max_products=2): no product can be set aside" in message


def test_categories_that_share_images(tmp_path: Path) -> None:
    same = [product(i, 1 + i % 2, b"the same photo") for i in range(10)]
    assert "products that share images stay on one side" in message_for(tmp_path, same)


def test_one_category_is_a_note(tmp_path: Path) -> None:
    spec = write(tmp_path / "train.bson", [product(i, 7) for i in range(20)])
    notes = build_data(Config(data=DataConfig(train=spec))).notes
    assert notes == [
        "all 16 training products are of one category, 7: there is nothing to distinguish, and "
        "every score says 1"
    ]
    spec = write(tmp_path / "train.bson", usual())
    assert build_data(Config(data=DataConfig(train=spec))).notes == []


@pytest.mark.parametrize("named", [True, False])
def test_categories_of_another_type(tmp_path: Path, named: bool) -> None:
    (tmp_path / "names.csv").write_text(
        "category_id,category_level1,category_level2,category_level3\n1000010653,A,B,C\n"
    )
    fields = {"categories": str(tmp_path / "names.csv")} if named else {}
    train = [product(i, b"%d" % CATEGORIES[i % 4]) for i in range(40)]
    assert message_for(tmp_path, train, **fields) == (
        "train.bson, byte 26: category_id is not usable: it is binary data; a category id is a "
        "whole number or text, and those of 40 products are not: give each category a number or a "
        "name"
    )
    unlabelled = [product(i, None) for i in range(40)]
    message = message_for(tmp_path, unlabelled, **fields)
    assert message == "train.bson: no product has a category_id; training needs labelled products"


def test_a_folder_without_labels(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", flat=True)
    with pytest.raises(UserError) as error:
        build_data(Config(data=DataConfig(train=str(root))))
    assert str(error.value) == (
        f"{root}: no product has a category_id; training needs labelled products: put products "
        "into folders of categories, or a labels.csv into the folder"
    )


def test_some_categories_of_another_type_are_a_note(tmp_path: Path) -> None:
    spec = write(tmp_path / "train.bson", usual() + [product(i, 1.5) for i in range(90, 100)])
    (note,) = build_data(Config(data=DataConfig(train=spec))).notes[:1]
    assert "training products have no category_id, or one of another type (" in note
    assert "category_id is not usable: it is the number 1.5): left out" in note


def test_validation_of_other_categories(tmp_path: Path) -> None:
    cases: list[tuple[list[dict[str, Any]], str]] = [
        (
            [product(i, 4242) for i in range(8)],
            "valid.bson: none of 8 products is of a category of the training data, but of another "
            "one: 4242 of 8 products; name data that fit together",
        ),
        (
            [product(i, 4242 + i % 7) for i in range(14)],
            "but of 7 others: 4242 of 2 products, 4243 of 2 products, 4244 of 2 products, 4245 of "
            "2 products, 4246 of 2 products, ...; name data that fit together",
        ),
        (
            [product(i, None) for i in range(3)],
            "valid.bson: no product has a category_id; validation needs labelled products",
        ),
        (
            [product(i, ObjectId(b"a" * 12)) for i in range(3)],
            "valid.bson: none of 3 products is of a category of the training data, but of another "
            "one: 616161616161616161616161 of 3 products; name data that fit together",
        ),
    ]
    for records, message in cases:
        valid = write(tmp_path / "valid.bson", records)
        assert message in message_for(tmp_path, usual(), valid=valid)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"imgs": []}, "byte 0: imgs is empty"),
        ({"imgs": None}, "imgs is not an array"),
        ({"imgs": [{"picture": "/9j/4AAQSk"}]}, "a binary picture: it is the string '/9j/4AAQSk'"),
        ({"imgs": [{"photo": b"x"}]}, "an image without a binary picture"),
    ],
)
def test_no_image_at_all(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    message = message_for(tmp_path, [product(i, CATEGORIES[i % 4]) | fields for i in range(40)])
    assert message.startswith("train.bson: none of 32 training products has an image (train.bson,")
    assert why in message


def test_images_and_categories_that_never_meet(tmp_path: Path) -> None:
    records = [product(i, 5) | {"imgs": []} for i in range(20)]
    records += [product(50 + i, None) for i in range(20)]
    assert (
        "training products, 16 have a category of its own and 16 an image, but none has both"
        in (message_for(tmp_path, records))
    )


def test_a_foreign_validation_file_is_refused_before_training_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "valid.bson").write_bytes(b"PK\x03\x04 and so on")
    message = message_for(tmp_path, usual(), valid=str(tmp_path / "valid.bson"))
    assert message.startswith(
        "valid.bson is compressed as a zip archive, no dump, folder or table of products"
    )
    assert not (tmp_path / "train.bson.index").exists()


def test_validation_without_any_image_is_measured(tmp_path: Path) -> None:
    valid = write(tmp_path / "valid.bson", [product(i, CATEGORIES[0]) | {"imgs": []} for i in [7]])
    train = write(tmp_path / "train.bson", usual())
    data = build_data(Config(data=DataConfig(train=train, valid=valid)))
    assert data.valid.num_images.tolist() == [0]
    np.testing.assert_array_equal(data.valid.labels, [0])
