import collections
import hashlib
from pathlib import Path

import bson
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_mil.data.duplicates import (
    MAX_LINKING_PRODUCTS,
    drop_images,
    group_images,
    product_of_images,
    shared_with,
)
from product_mil.data.split import split_products
from product_mil.errors import UserError
from product_mil.sources.bson.index import BsonCatalogue, open_catalogue
from product_mil.sources.memory import catalogue_of as catalogue_in_memory


def catalogue_of(
    path: Path, images: list[list[int]], categories: list[int] | None = None, first_id: int = 0
) -> BsonCatalogue:
    """Products whose images are named by numbers: equal numbers are identical images."""
    records = [
        {
            "_id": first_id + row,
            "category_id": categories[row] if categories else 1,
            "imgs": [{"picture": b"picture %d" % image} for image in shown],
        }
        for row, shown in enumerate(images)
    ]
    path.write_bytes(b"".join(map(bson.encode, records)))
    return open_catalogue(path)


def random_images(seed: int, count: int, distinct: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, distinct, rng.integers(1, 5)).tolist() for _ in range(count)]


def images_of(images: list[list[int]], rows: np.ndarray) -> set[int]:
    return {image for row in rows.tolist() for image in images[row]}


def test_no_image_is_on_both_sides_and_no_product_is_lost(tmp_path: Path) -> None:
    images = random_images(0, 400, 1500)
    catalogue = catalogue_of(tmp_path / "a.bson", images, [i % 7 for i in range(400)])
    split = split_products(catalogue, valid_fraction=0.2, seed=3)
    assert not images_of(images, split.train_rows) & images_of(images, split.valid_rows)
    both = np.concatenate([split.train_rows, split.valid_rows])
    assert np.array_equal(np.sort(both), np.arange(400))
    assert np.all(np.diff(split.train_rows) > 0)
    assert np.all(np.diff(split.valid_rows) > 0)
    assert len(split.valid_rows) == 80
    assert len(split.popular_images) == 0
    assert shared_with(catalogue, split.train_rows, catalogue, split.valid_rows) == 0


@settings(max_examples=150)
@given(
    products=st.lists(
        st.tuples(
            st.lists(st.integers(0, 99), max_size=4),  # images
            st.integers(0, 19),  # id
            st.integers(0, 2),  # category
        ),
        min_size=5,
        max_size=50,
    ),
    valid_fraction=st.floats(0.1, 0.6),
    seed=st.integers(0, 2**31),
    max_products=st.integers(0, 60),
)
def test_a_split_keeps_components_together(
    products: list[tuple[list[int], int, int]], valid_fraction: float, seed: int, max_products: int
) -> None:
    """Products of one image or one id are on one side, whatever links them to others."""
    images, ids, categories = map(list, zip(*products, strict=True))
    catalogue = catalogue_in_memory(
        [[b"image %d" % image for image in shown] for shown in images],
        product_id=ids,
        category_id=categories,
    )
    split = split_products(
        catalogue, valid_fraction=valid_fraction, seed=seed, max_products=max_products
    )
    train, valid = split.train_rows.tolist(), split.valid_rows.tolist()
    rows = sorted(train + valid)
    assert len(set(rows)) == len(rows) == min(max_products or len(images), len(images))
    assert len(valid) <= round(valid_fraction * len(rows))
    assert {categories[row] for row in valid} <= {categories[row] for row in train}
    assert not {ids[row] for row in train} & {ids[row] for row in valid}
    shown_by = collections.Counter(image for row in rows for image in set(images[row]))
    linking = {image for image, count in shown_by.items() if count <= MAX_LINKING_PRODUCTS}
    both = images_of(images, split.train_rows) & images_of(images, split.valid_rows)
    assert not both & linking


def test_num_linked_counts_the_products_of_components(tmp_path: Path) -> None:
    images = [[1, 2], [2, 3], [3, 3, 4], [5], [6, 6], [7], [7]]
    split = split_products(catalogue_of(tmp_path / "a.bson", images), valid_fraction=0.3, seed=0)
    assert split.num_linked == 5


def test_an_image_in_too_many_products_links_nothing_and_is_listed(tmp_path: Path) -> None:
    twenty = [[i, 1000] for i in range(20)]
    popular = [[100 + i, 2000] for i in range(21)] + [[200 + i, 3000] for i in range(30)]
    catalogue = catalogue_of(tmp_path / "a.bson", twenty + popular)
    split = split_products(catalogue, valid_fraction=0.5, seed=0)
    assert split.num_linked == 20
    assert split.popular_num_products.tolist() == [30, 21]
    assert split.popular_images.tolist() == [2 * 41 + 1, 2 * 20 + 1]
    # The same image many times in one product makes it no more popular.
    once = catalogue_of(tmp_path / "b.bson", [[1] * 30, [1], [2]])
    assert len(split_products(once, valid_fraction=0.3, seed=0).popular_images) == 0


def test_ignored_images_link_nothing(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path / "a.bson", [[1, 9], [2, 9], [3, 3], [3]])
    ignored = np.array([False, True, False, True, False, False, False])
    split = split_products(catalogue, valid_fraction=0.5, seed=0, ignored_images=ignored)
    assert split.num_linked == 2


def test_products_of_one_id_stay_together(tmp_path: Path) -> None:
    for name in "ab":
        catalogue_of(tmp_path / f"{name}.bson", [[ord(name) * 100 + i] for i in range(50)])
    catalogue = open_catalogue(str(tmp_path / "*.bson"))
    split = split_products(catalogue, valid_fraction=0.4, seed=0)
    assert split.num_linked == 100
    ids = catalogue.product_id
    assert not set(ids[split.train_rows].tolist()) & set(ids[split.valid_rows].tolist())


def test_the_split_is_pinned(tmp_path: Path) -> None:
    """Changing it moves products between the parts of every user's data: change it knowingly."""
    images = random_images(1, 300, 1000)
    catalogue = catalogue_of(tmp_path / "a.bson", images, [i % 11 for i in range(300)])
    digests = []
    for seed, max_products in ((0, 0), (1, 0), (0, 100)):
        split = split_products(catalogue, valid_fraction=0.25, seed=seed, max_products=max_products)
        digests.append(hashlib.sha256(split.valid_rows.astype("<i8").tobytes()).hexdigest()[:16])
    assert digests == ["9ecb63a8efc8dcc4", "ac2ec93ab5baa291", "c6cb39b033b7251b"]


def test_the_order_of_records_and_files_does_not_matter(tmp_path: Path) -> None:
    images = random_images(2, 200, 700)
    categories = [i % 5 for i in range(200)]
    whole = catalogue_of(tmp_path / "a.bson", images, categories)
    records = [
        (tmp_path / "a.bson").read_bytes()[at : at + length]
        for at, length in zip(whole.offset_bytes, whole.length_bytes, strict=True)
    ]
    order = np.random.default_rng(0).permutation(200)
    for name, part in (("b", order[:70]), ("c", order[70:])):
        (tmp_path / f"{name}.bson").write_bytes(b"".join(records[row] for row in part))
    shuffled = open_catalogue(str(tmp_path / "[bc].bson"))
    for max_products in (0, 90):
        ids = [
            set(c.product_id[split.valid_rows].tolist())
            for c in (whole, shuffled)
            for split in [split_products(c, valid_fraction=0.3, seed=5, max_products=max_products)]
        ]
        assert ids[0] == ids[1]
        assert len(ids[0]) == round(0.3 * (max_products or 200))


def test_max_products_draws_nested_random_subsets(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path / "a.bson", [[i] for i in range(2000)])

    def drawn(count: int) -> np.ndarray:
        split = split_products(catalogue, valid_fraction=0.1, seed=0, max_products=count)
        return np.union1d(split.train_rows, split.valid_rows)

    assert len(drawn(200)) == 200
    assert set(drawn(200)) < set(drawn(500))
    assert abs(drawn(500).mean() - 1000) < 4 * 2000 / np.sqrt(12 * 500)  # 4 standard errors
    assert len(drawn(5000)) == 2000


def test_categories_are_cut_evenly_and_none_vanishes_from_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    categories = np.concatenate([np.repeat(np.arange(50), 40), 1000 + np.arange(60)])
    categories = np.concatenate([categories, np.repeat(2000 + np.arange(30), 3)])
    rng.shuffle(categories)
    images = [[i, 100_000 + i // 2] for i in range(len(categories))]  # pairs across categories
    catalogue = catalogue_of(tmp_path / "a.bson", images, categories.tolist())
    split = split_products(catalogue, valid_fraction=0.25, seed=0)
    assert abs(len(split.valid_rows) - 0.25 * len(categories)) <= 12
    assert set(categories[split.train_rows]) == set(categories)
    large = categories[split.valid_rows]
    counts = np.bincount(large[large < 50], minlength=50)
    assert counts.min() >= 4  # 10 of 40 expected; half of each come with a pair's other category
    assert counts.max() <= 17


def test_single_products_of_a_category_are_shared_out_exactly(tmp_path: Path) -> None:
    categories = np.repeat(np.arange(20), 10).tolist()
    catalogue = catalogue_of(tmp_path / "a.bson", [[i] for i in range(200)], categories)
    split = split_products(catalogue, valid_fraction=0.3, seed=0)
    assert np.bincount(np.array(categories)[split.valid_rows]).tolist() == [3] * 20


def test_a_component_too_large_for_validation_is_stepped_over(tmp_path: Path) -> None:
    images = [[0, i] for i in range(1, 20)] + [[100 + i] for i in range(21)]
    for seed in range(10):
        catalogue = catalogue_of(tmp_path / "a.bson", images)
        split = split_products(catalogue, valid_fraction=0.25, seed=seed)
        assert len(split.valid_rows) == 10
        assert split.valid_rows.min() >= 19


def test_seeds_differ(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path / "a.bson", [[i] for i in range(500)])
    parts = [
        set(split_products(catalogue, valid_fraction=0.2, seed=seed).valid_rows)
        for seed in range(5)
    ]
    for i in range(5):
        for j in range(i):
            assert 2 <= len(parts[i] & parts[j]) <= 40  # 20 expected


def test_shared_with_counts_products_of_the_second(tmp_path: Path) -> None:
    a = catalogue_of(tmp_path / "a.bson", [[1], [2, 3], [4]])
    b = catalogue_of(tmp_path / "b.bson", [[3, 9], [3], [1], [4], [8, 8]])
    every_a, every_b = np.arange(3), np.arange(5)
    assert shared_with(a, every_a, b, every_b) == 4
    assert shared_with(a, every_a[:2], b, every_b) == 3
    assert shared_with(a, every_a, b, every_b[2:]) == 2
    assert shared_with(b, every_b, a, every_a) == 3
    assert shared_with(a, every_a[:0], b, every_b) == 0
    assert shared_with(a, every_a, b, every_b[:0]) == 0


def test_groups_need_all_128_bits() -> None:
    image_hash = np.array([[5, 1], [5, 2], [5, 1], [4, 1], [5, 2], [5, 2]], np.uint64)
    groups = group_images(image_hash, np.array([0, 0, 1, 1, 2, 2], np.int32))
    members = np.split(groups.image_row, groups.start[1:])
    assert [group.tolist() for group in members] == [[3], [0, 2], [1, 4, 5]]
    assert groups.num_products.tolist() == [1, 2, 2]


def test_drop_images_by_md5(tmp_path: Path) -> None:
    images = [[7, 1], [2], [7, 7], [3, 7]]
    catalogue_of(tmp_path / "a.bson", images)
    catalogue_of(tmp_path / "b.bson", [[50], [7, 51]], first_id=100)
    catalogue = open_catalogue(str(tmp_path / "*.bson"))
    md5 = [hashlib.md5(b"picture %d" % image).hexdigest() for image in (7, 51, 99)]
    drop = drop_images(catalogue, [md5[0], md5[1].upper(), md5[2]])
    flat = [image for shown in [*images, [50], [7, 51]] for image in shown]
    assert drop.tolist() == [image in (7, 51) for image in flat]
    assert not drop_images(catalogue, []).any()
    with pytest.raises(UserError, match="no md5 sum"):
        drop_images(catalogue, ["abc"])


def test_in_a_large_catalogue_only_frequent_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product_mil.data.duplicates._SMALL_CATALOGUE_IMAGES", 10)
    catalogue = catalogue_of(tmp_path / "a.bson", [[i, 900 + (i >= 21)] for i in range(41)])
    md5 = [hashlib.md5(b"picture %d" % image).hexdigest() for image in (900, 901, 0)]
    drop = drop_images(catalogue, md5)
    assert drop.sum() == 21
    assert drop[1]


def test_without_hashes_it_says_what_to_do(tmp_path: Path) -> None:
    catalogue_of(tmp_path / "a.bson", [[1], [2]])
    (tmp_path / "b.bson").write_bytes((tmp_path / "a.bson").read_bytes())
    catalogue = open_catalogue(tmp_path / "b.bson", hash_images=False)
    with pytest.raises(ValueError, match="hash_images=True"):
        split_products(catalogue, valid_fraction=0.5, seed=0)


def test_product_of_images_skips_products_without(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path / "a.bson", [[1, 2], [], [3]])
    assert product_of_images(catalogue).tolist() == [0, 0, 2]
    split = split_products(catalogue, valid_fraction=0.34, seed=0)
    assert len(split.valid_rows) == 1


def test_real_photos(shared: Path) -> None:
    catalogue = open_catalogue(shared / "data" / "grocery" / "train.bson")
    split = split_products(catalogue, valid_fraction=0.2, seed=0)
    assert len(split.valid_rows) == 308
    train = catalogue.category_id[split.train_rows]
    assert len(np.unique(train)) == len(np.unique(catalogue.category_id)) == 81
    assert shared_with(catalogue, split.train_rows, catalogue, split.valid_rows) == 0
