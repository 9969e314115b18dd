"""The same products from every source: trained on, evaluated, exported, compared."""

import csv
import gzip
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import bson
import numpy as np
import pytest
from PIL import Image

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.data.decode import decode_images
from product_mil.data.embeddings import EmbeddingStore, fill_store
from product_mil.data.products import Products
from product_mil.data.split import split_products
from product_mil.inference.stream import predict_products
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.sources import mongo
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.memory import catalogue_of
from product_mil.sources.opening import open_catalogue
from product_mil.sources.sample.draw import SampleFiles
from product_mil.train.log import RunLog
from tests.scripts import call_tool
from tests.sources.fake_mongo import Server
from tests.sources.of_products import (
    Product,
    csv_of_lists,
    dump,
    folder,
    parquet_of_bytes,
    record,
    records,
)
from tests.sources.test_packed_dumps import archive

ADDRESS = "mongodb://shop.example/shop.products"
KINDS = ("dump", "folder", "paths", "bytes", "gzip", "archive", "mongodb")


@pytest.fixture(scope="module")
def products(sample: SampleFiles) -> list[Product]:
    """Some of the sample, in the order of their categories and ids, as folders have them."""
    found = bson.decode_all(sample.train.read_bytes())[:60]
    found.sort(key=lambda record: (record["category_id"], record["_id"]))
    return [
        Product(one["_id"], one["category_id"], [image["picture"] for image in one["imgs"]])
        for one in found
    ]


@pytest.fixture(scope="module")
def specs(products: list[Product], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What names the products in each source."""
    root = tmp_path_factory.mktemp("sources")
    (root / "dump.bson.gz").write_bytes(gzip.compress(b"".join(records(products))))
    others = records([Product(-1, 5, [])])
    (root / "dump.archive").write_bytes(archive(products=records(products), others=others))
    return {
        "dump": str(dump(root / "products.bson", products)),
        "folder": str(folder(root / "photos", products)),
        "paths": str(csv_of_lists(root / "products.csv", products)),
        "bytes": str(parquet_of_bytes(root / "products.parquet", products)),
        "gzip": str(root / "dump.bson.gz"),
        "archive": str(root / "dump.archive") + "#products",
        "mongodb": ADDRESS,
    }


@pytest.fixture
def _server(products: list[Product], monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [record(product) for product in products]
    in_order = [{**one, "_id": number} for number, one in enumerate(documents)]
    for own, one in zip(in_order, documents, strict=True):
        own["sku"] = one["_id"]  # the collection has its products in the same order
    monkeypatch.setattr(mongo, "MongoClient", Server(products=in_order).connect)


@pytest.fixture(scope="module")
def config() -> Config:
    stage = StageConfig(epochs=1, images_per_batch=32, batch_statistics=True)
    return Config(
        data=DataConfig(image_size_px=48, embedding_cache=False),
        model=ModelConfig(backbone="small_cnn", pooling="gated_attention"),
        head=replace(stage, epochs=0, trainable="head", batch_statistics=False),
        finetune=stage,
    )


def trained_on(spec: str, config: Config, workdir: Path) -> Path:
    run(replace(config, data=replace(config.data, train=spec)), workdir)
    return workdir


@pytest.fixture(scope="module")
def reference(
    specs: dict[str, str], config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on the dump, with its submission beside it."""
    workdir = trained_on(specs["dump"], config, tmp_path_factory.mktemp("reference"))
    submission = workdir / "submission.csv"
    call_tool(
        "export_predictions", "--workdir", workdir, "--data", specs["dump"], "--output", submission
    )
    return workdir


@pytest.mark.slow
@pytest.mark.usefixtures("_server")
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_run_on_any_source(
    kind: str,
    specs: dict[str, str],
    config: Config,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = specs[kind] + "#id=sku" * (kind == "mongodb")
    workdir = trained_on(spec, config, tmp_path / "run")
    rows, wanted = (RunLog(of).metrics()[-1] for of in (workdir, reference))
    for name in ("train/loss", "valid/nll", "valid/top1"):
        assert rows[name] == wanted[name]
    capsys.readouterr()
    call_tool("evaluate", "--workdir", workdir, "--data", spec, "--json")
    here = json.loads(capsys.readouterr().out)
    call_tool("evaluate", "--workdir", reference, "--data", specs["dump"], "--json")
    there = json.loads(capsys.readouterr().out)
    assert here["top1"] == there["top1"]
    assert here["nll"] == there["nll"]
    assert any("was trained on 48" in remark for remark in here["remarks"])
    output = tmp_path / "submission.csv"
    call_tool("export_predictions", "--workdir", workdir, "--data", spec, "--output", output)
    assert output.read_bytes() == (reference / "submission.csv").read_bytes()
    runs = (f"ours={workdir}", f"theirs={reference}")
    call_tool("compare", "--runs", *runs, "--data", spec, "--output", tmp_path / "compared")
    assert (tmp_path / "compared" / "index.html").is_file()
    call_tool("index_bson", spec, "--json")
    call_tool("show_data", "--data", spec, "--output", tmp_path / "sheet.png", "--products", 2)


@pytest.fixture(scope="module")
def catalogues(specs: dict[str, str], products: list[Product]) -> dict[str, Catalogue]:
    found = {kind: open_catalogue(specs[kind]) for kind in KINDS if kind != "mongodb"}
    ids, categories, images = zip(*products, strict=True)
    found["memory"] = catalogue_of(images, product_id=ids, category_id=categories)
    return found


def test_the_same_predictions(catalogues: dict[str, Catalogue], trained: Path) -> None:
    opened = open_run(trained)
    step = opened.predict_step(topk=3, keep_all=True)
    found = {}
    for kind, catalogue in catalogues.items():
        chosen = opened.select(catalogue)
        blocks = [
            block
            for block, _ in predict_products(chosen, opened.batches(chosen, 64), step, opened.mesh)
        ]
        found[kind] = [
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("product_id", "probabilities")
        ]
    for columns in found.values():
        for column, wanted in zip(columns, found["dump"], strict=True):
            np.testing.assert_array_equal(column, wanted)


def test_the_same_embeddings_and_split(catalogues: dict[str, Catalogue], tmp_path: Path) -> None:
    """What was embedded from one source is found for the same images of every other."""

    def embed(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1, 3).astype(np.float32).mean(1)

    store = EmbeddingStore(tmp_path / "store", dim=3, dtype="float32")
    embedded, parts = [], []
    for catalogue in catalogues.values():
        rows = np.arange(catalogue.num_products)
        every = Products(catalogue, rows, np.zeros(len(rows), np.int32), 4)
        count, faults = fill_store(
            store, [every], embed, image_size_px=32, batch_images=8, threads=2
        )
        assert not list(faults)
        embedded.append(count)
        split = split_products(catalogue, valid_fraction=0.2, seed=0)
        parts.append(sorted(catalogue.product_id[split.valid_rows].tolist()))
    assert embedded == [len(store)] + [0] * (len(catalogues) - 1)
    assert all(part == parts[0] for part in parts)
    assert len(parts[0]) == 12


def odd_images() -> list[bytes]:
    """Of many modes and formats; the first one cannot be used."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 24, 4), np.uint8)
    grey16 = Image.fromarray(rng.integers(0, 65536, (20, 24)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb = Image.fromarray(pixels[..., :3])
    see_through = rgb.quantize(8)
    see_through.info["transparency"] = 3
    found = [b"no image"]
    for image, kind, settings in (
        (grey16, "PNG", {}),
        (Image.fromarray(pixels), "PNG", {}),
        (Image.fromarray(pixels[..., :2].copy(), "LA"), "PNG", {}),
        (see_through, "PNG", {"transparency": 3}),
        (rgb.convert("1"), "PNG", {}),
        (rgb.convert("L"), "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"exif": turned}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.quantize(16), "GIF", {}),
        (Image.fromarray(pixels), "WEBP", {"lossless": True}),
        (rgb, "BMP", {}),
        (rgb, "TIFF", {}),
    ):
        file = BytesIO()
        image.save(file, kind, **settings)
        found.append(file.getvalue())
    return found


def test_odd_images_have_the_same_pixels(tmp_path: Path) -> None:
    odd = odd_images()
    products = [Product(number, 5, [image]) for number, image in enumerate(odd)]
    ids, categories, images = zip(*products, strict=True)
    rows = [(product.product_id, f"photos/5/{product.product_id}/0.jpg") for product in products]
    in_folder = folder(tmp_path / "photos", products)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("_id", "path"), *rows])
    found = []
    for catalogue in (
        catalogue_of(images, product_id=ids, category_id=categories),
        open_catalogue(dump(tmp_path / "a.bson", products)),
        open_catalogue(in_folder),
        open_catalogue(tmp_path / "a.csv"),
        open_catalogue(parquet_of_bytes(tmp_path / "a.parquet", products)),
    ):
        pixels = np.zeros((len(odd), 32, 32, 3), np.uint8)
        reasons = decode_images(catalogue.read(np.arange(len(odd))), pixels)
        found.append((reasons, pixels))
    assert list(found[0][0]) == [0]
    assert all(image.any() for image in found[0][1][1:])
    for reasons, pixels in found[1:]:
        assert reasons == found[0][0]
        np.testing.assert_array_equal(pixels, found[0][1])
