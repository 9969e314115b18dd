"""Each configuration is fed from the right source, and faults of cached images come beside it."""

from dataclasses import replace
from typing import Any

import bson
import numpy as np
import pytest

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.config import AugmentConfig, Config, DataConfig, ModelConfig, StageConfig
from product_mil.data.products import Products
from product_mil.devices.mesh import data_mesh
from product_mil.model.backbones.hand_made import describe
from product_mil.model.classifier import Model
from product_mil.runs import embed
from product_mil.runs.embed import in_groups
from product_mil.runs.feed import open_feed, uncached_feed
from product_mil.runs.model import build_model
from product_mil.runs.schedule import evaluation_plan
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.sample.draw import SampleFiles

HEAD = StageConfig(epochs=1, trainable="head", images_per_batch=16)
FROZEN = Config(
    data=DataConfig(image_size_px=32, shards=4),
    model=ModelConfig(backbone="small_cnn"),
    head=HEAD,
    finetune=StageConfig(epochs=0),
)
UNREADABLE = (3, 0)  # product and image


@pytest.fixture(scope="module")
def products(sample: SampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Products:
    records = bson.decode_all(sample.train.read_bytes())[:8]
    for number, record in enumerate(records):
        record["_id"] = number
    records[UNREADABLE[0]]["imgs"][UNREADABLE[1]] = {"picture": b"no image"}
    path = tmp_path_factory.mktemp("data") / "a.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    catalogue = open_catalogue(path)
    rows = np.arange(catalogue.num_products)
    return Products(catalogue, rows, np.zeros(len(rows), np.int32), max_images=4)


def fed(config: Config, products: Products, **options: Any) -> tuple[Any, list[Any]]:
    model, _ = build_model(config, classes=2)
    feed = open_feed(config, model, [products], data_mesh(4), **options)
    return feed, list(feed.batches(products, evaluation_plan(products, 4, 8)))


def unread(faults: list[Any]) -> list[tuple[int, int]]:
    return [(fault.product_id, fault.image_index) for fault in faults if not fault.is_remark]


def test_several_processes_hash_the_backbone_once(
    products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each looks into the cache twice: for its share, and for what is lacking then."""
    hashed, shares = [], []
    digest, fill = Model.backbone_digest, embed.fill_store
    monkeypatch.setattr(Model, "backbone_digest", lambda *of: hashed.append(of) or digest(*of))
    monkeypatch.setattr(
        embed, "fill_store", lambda *of, **by: shares.append(by["share"]) or fill(*of, **by)
    )
    monkeypatch.setattr(embed, "are_several", lambda: True)
    monkeypatch.setattr(embed, "own_share", lambda: embed.Share(1, 2))
    feed, _ = fed(FROZEN, products)
    assert shares == [(1, 2), (0, 1)]
    assert len(hashed) == 1
    assert UNREADABLE in unread(feed.faults)


def test_a_frozen_backbone_is_fed_from_the_cache(products: Products) -> None:
    for stage in (None, HEAD):
        feed, loads = fed(FROZEN, products, stage=stage)
        assert all(isinstance(loaded.batch, EmbeddedBatch) for loaded in loads)
        assert unread(feed.faults) == [UNREADABLE]
        assert not any(loaded.faults for loaded in loads)
        assert feed.note.startswith("embeddings: ")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (FROZEN, {"pixels": True}),
        (FROZEN, {"stage": StageConfig(trainable="all")}),
        (FROZEN, {"stage": replace(HEAD, augment=AugmentConfig(flip=0.5))}),
        (replace(FROZEN, data=replace(FROZEN.data, embedding_cache=False)), {}),
        (replace(FROZEN, finetune=StageConfig(epochs=1)), {}),
    ],
    ids=["pixels", "trained", "augmented", "no cache", "was trained"],
)
def test_all_else_is_fed_with_pixels(
    products: Products, config: Config, options: dict[str, Any]
) -> None:
    feed, loads = fed(config, products, **options)
    assert all(isinstance(loaded.batch, PackedBatch) for loaded in loads)
    assert feed.faults == []
    assert unread([fault for loaded in loads for fault in loaded.faults]) == [UNREADABLE]
    augmented = "stage" in options and options["stage"].augment.flip > 0
    assert feed.note.startswith("augmentation is on") == augmented


def test_the_prior_is_fed_with_nothing(products: Products) -> None:
    model = ModelConfig(backbone="none", pooling="prior")
    feed, loads = fed(replace(FROZEN, model=model), products, pixels=True)
    assert feed.faults == []
    assert [loaded.faults for loaded in loads] == [[]] * len(loads)
    for loaded in loads:
        assert isinstance(loaded.batch, EmbeddedBatch)
        assert loaded.batch.embeddings.shape[-1] == 1


def handed(config: Config, products: Products) -> list[Any]:
    model, _ = build_model(FROZEN, classes=2)
    feed = uncached_feed(config, model, data_mesh(4))
    return list(feed.batches(products, evaluation_plan(products, 4, 8)))


WITHOUT_CACHE = replace(FROZEN, data=replace(FROZEN.data, embedding_cache=False))


@pytest.mark.parametrize(
    "config", [WITHOUT_CACHE, replace(FROZEN, finetune=replace(HEAD, trainable="all"))]
)
def test_products_that_are_handed_over_are_fed_with_pixels(
    products: Products, config: Config
) -> None:
    loads = handed(config, products)
    assert all(isinstance(loaded.batch, PackedBatch) for loaded in loads)
    assert unread([fault for loaded in loads for fault in loaded.faults]) == [UNREADABLE]


def test_where_there_would_be_a_cache_they_are_embedded_to_the_same_bits(
    products: Products,
) -> None:
    _, cached = fed(FROZEN, products)
    loads = handed(FROZEN, products)
    assert unread([fault for loaded in loads for fault in loaded.faults]) == [UNREADABLE]
    assert sum(loaded.batch.slots.is_image.sum() for loaded in loads) > 10
    for loaded, wanted in zip(loads, cached, strict=True):
        assert isinstance(loaded.batch, EmbeddedBatch)
        np.testing.assert_array_equal(loaded.batch.slots.is_image, wanted.batch.slots.is_image)
        np.testing.assert_array_equal(loaded.batch.embeddings, wanted.batch.embeddings)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_images_are_embedded_in_groups_of_one_size(count: int) -> None:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sizes = []

    def embed(group: np.ndarray) -> np.ndarray:
        sizes.append(len(group))
        return group[:, 0, 0, :2].astype(np.float32)

    found = in_groups(embed)(images)
    np.testing.assert_array_equal(found, images[:, 0, 0, :2])
    assert sizes == [16] * max(-(-count // 16), 1)  # 4 a device


def test_what_the_host_embeds_is_handed_over_as_embeddings(products: Products) -> None:
    model = ModelConfig(backbone="hand_made", pooling="tree")
    of_pixels = handed(WITHOUT_CACHE, products)
    for loaded, seen in zip(handed(replace(FROZEN, model=model), products), of_pixels, strict=True):
        is_image = loaded.batch.slots.is_image
        assert isinstance(loaded.batch, EmbeddedBatch)
        assert isinstance(seen.batch, PackedBatch)
        assert loaded.faults == seen.faults
        np.testing.assert_array_equal(is_image, seen.batch.slots.is_image)
        wanted = describe(seen.batch.images[is_image])
        np.testing.assert_array_equal(loaded.batch.embeddings[is_image], wanted)
        assert not loaded.batch.embeddings[~is_image].any()


def test_the_prior_is_handed_nothing(products: Products) -> None:
    model = ModelConfig(backbone="none", pooling="prior")
    for loaded in handed(replace(FROZEN, model=model), products):
        assert isinstance(loaded.batch, EmbeddedBatch)
        assert loaded.faults == []
