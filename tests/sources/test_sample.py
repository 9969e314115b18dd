import csv
import hashlib
import itertools
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest
import simplejpeg

from product_mil.errors import UserError
from product_mil.sources.sample import draw as sample
from product_mil.sources.sample.render import Studio
from product_mil.sources.sample.shapes import Part, Style, box


def read(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as stream:
        return list(bson.decode_file_iter(stream))


def test_same_seed_same_bytes(tmp_path: Path):
    contents = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        (tmp_path / name).mkdir()
        files = sample.write_sample(tmp_path / name, seed=seed, num_products=12)
        contents.append(files.train.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_the_catalogue_stays_as_it_is(tmp_path: Path):
    """Figures in the docs were measured on it: another generator is another VERSION."""
    files = sample.write_sample(tmp_path, seed=0, num_products=40)
    pixels, records = hashlib.sha256(), []
    for record in read(files.train):
        records.append((record["_id"], record["category_id"], len(record["imgs"])))
        for image in record["imgs"]:
            pixels.update(image["picture"])
    assert sample.VERSION == 2
    assert hashlib.sha256(repr(records).encode()).hexdigest()[:16] == "454b871a23afe45e"
    assert hashlib.sha256(files.categories.read_bytes()).hexdigest()[:16] == "59cb1c0ffe9cf1cd"
    assert pixels.hexdigest()[:16] == "73b9a1dd7d9f4d78"


def test_records_are_like_cdiscounts(tmp_path: Path):
    files = sample.write_sample(tmp_path, seed=0, num_products=40)
    records = read(files.train)
    ids = [record["_id"] for record in records]
    assert len(ids) == 40
    assert ids == sorted(set(ids))
    assert ids[-1] > 80  # gaps
    rows = list(csv.reader(files.categories.read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["category_id", *(f"category_level{level}" for level in (1, 2, 3))]
    known = {int(row[0]): row[3] for row in rows[1:]}
    assert len(known) == len(rows) - 1 == len(sample.CATEGORIES)
    for record in records:
        assert set(record) == {"_id", "category_id", "imgs"}
        assert record["category_id"] in known
        for image in record["imgs"]:
            photo = simplejpeg.decode_jpeg(image["picture"])
            assert photo.shape == (180, 180, 3)
            assert photo.std() > 10


def test_tree():
    assert len(sample.CATEGORIES) >= 24
    parents = {c.names[1]: c.names[0] for c in sample.CATEGORIES}
    assert all(parents[c.names[1]] == c.names[0] for c in sample.CATEGORIES)
    assert len(set(parents.values())) >= 4
    assert all(10**9 <= i < 2**31 for i in sample.CATEGORY_IDS)
    assert sorted(sample.CATEGORY_IDS) != sample.CATEGORY_IDS


def test_a_set_of_photos_is_never_ambiguous():
    """No accessory turns a plain category's photos into those of a combination."""
    combined = [set(c.members) for c in sample.CATEGORIES if len(c.members) > 1]
    assert len(combined) >= 6
    for category in sample.CATEGORIES:
        shown = {*category.members, *category.accessories}
        for members in combined:
            assert set(category.members) == members or not members <= shown
    assert max(Counter(map(frozenset, combined)).values()) == 1


def test_accessories_are_shared_and_are_products():
    uses = Counter(a for c in sample.CATEGORIES for a in c.accessories)
    products = {c.members[0] for c in sample.CATEGORIES if len(c.members) == 1}
    assert min(uses.values()) >= 3
    assert len(set(uses) & products) >= 3


def test_number_of_images_follows_cdiscount():
    rows, num_images = sample.draw_products(np.random.default_rng(0), 2000)
    share = np.bincount(num_images, minlength=5)[1:] / 2000
    np.testing.assert_allclose(share, [0.618, 0.160, 0.077, 0.146], atol=0.001)
    is_combined = np.array([len(c.members) > 1 for c in sample.CATEGORIES])[rows]
    assert num_images[is_combined].min() == 2
    assert 0.25 < is_combined[num_images > 1].mean() < 0.35
    assert np.bincount(rows).min() >= 20  # every category can be learnt
    neighbours = np.abs(np.diff(rows)).mean()
    assert 0 < neighbours < 8  # grouped like a dump, but not sorted
    assert (np.diff(rows) < 0).any()


def test_every_member_is_shown_and_accessories_are_many(monkeypatch: pytest.MonkeyPatch):
    def draw(red: float, style: Style) -> list[Part]:
        return [Part(box(-1, -1, 1, 1), np.array([red, 0.0, 0.0]))]

    shown: list[float] = []

    def photograph(self: Studio, thing: list[Part], *_: object) -> np.ndarray:
        shown.append(float(thing[0].colour[0]))
        return np.zeros((180, 180, 3), np.uint8)

    monkeypatch.setattr(Studio, "photograph", photograph)
    studio = Studio(np.random.default_rng(0))
    pair = sample.Category(("A", "B", "C"), (partial(draw, 0.1), partial(draw, 0.2)), ())
    plain = sample.Category(("A", "B", "D"), (partial(draw, 0.1),), (partial(draw, 0.3),))
    accessories = 0
    for seed, count in itertools.product(range(50), (2, 3, 4)):
        shown.clear()
        sample.take_pictures(pair, count, studio, np.random.default_rng(seed))
        assert len(shown) == count
        assert set(shown) == {0.1, 0.2}
        shown.clear()
        sample.take_pictures(plain, count, studio, np.random.default_rng(seed))
        assert 0.1 in shown
        accessories += shown.count(0.3)
    assert 0.25 < accessories / (50 * 9) < 0.5


def test_cached_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sample, "write_sample", partial(sample.write_sample, num_products=5))
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    files = sample.ensure_sample(7)
    assert files.train.parent == tmp_path / "cache" / f"sample-v{sample.VERSION}-7"
    assert len(read(files.train)) == 5
    written = files.train.stat().st_mtime_ns
    assert sample.ensure_sample(7) == files
    assert files.train.stat().st_mtime_ns == written
    other = sample.ensure_sample(7, tmp_path / "other")
    assert other.train.read_bytes() == files.train.read_bytes()
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [files.train.parent.name]


def test_another_process_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = partial(sample.write_sample, num_products=3)

    def write_while_another_finishes(directory: Path, *, seed: int) -> sample.SampleFiles:
        theirs = tmp_path / f"sample-v{sample.VERSION}-{seed}"
        theirs.mkdir()
        write(theirs, seed=seed)
        return write(directory, seed=seed)

    monkeypatch.setattr(sample, "write_sample", write_while_another_finishes)
    files = sample.ensure_sample(1, tmp_path)
    assert len(read(files.train)) == 3
    assert [p.name for p in tmp_path.iterdir()] == [files.train.parent.name]


def test_no_half_catalogue_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(directory: Path, *, seed: int) -> None:
        (directory / "train.bson").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "write_sample", fail)
    with pytest.raises(UserError, match=r"No space left.*PRODUCT_MIL_CACHE"):
        sample.ensure_sample(1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_negative_seed(tmp_path: Path):
    with pytest.raises(UserError, match="-1"):
        sample.ensure_sample(-1, tmp_path)


@pytest.mark.slow
def test_colour_does_not_tell_the_category(tmp_path: Path):
    linear_model = pytest.importorskip("sklearn.linear_model")
    records = read(sample.write_sample(tmp_path, seed=0).train)
    histograms = []
    for record in records:
        photos = [simplejpeg.decode_jpeg(image["picture"]) >> 5 for image in record["imgs"]]
        codes = np.stack(photos).reshape(-1, 3) @ np.array([64, 8, 1])
        histograms.append(np.bincount(codes, minlength=512) / len(codes))
    features = np.stack(histograms)
    labels = np.array([record["category_id"] for record in records])
    is_valid = np.random.default_rng(0).random(len(labels)) < 0.2
    model = linear_model.LogisticRegression(C=10, max_iter=1000)
    model.fit(features[~is_valid], labels[~is_valid])
    assert model.score(features[is_valid], labels[is_valid]) < 0.45
