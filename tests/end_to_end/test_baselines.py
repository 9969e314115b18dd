"""The prior and the tree are runs like any other."""

import dataclasses
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from product_mil.config import Config, DataConfig, StageConfig, load_config
from product_mil.data.embeddings import EmbeddedSource, EmbeddingStore
from product_mil.data.loader import batches
from product_mil.data.plan import ShuffledPlan
from product_mil.data.products import Products
from product_mil.errors import Interrupted
from product_mil.inference.stream import predict_products
from product_mil.runs.data import build_data
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.sample.draw import SampleFiles
from tests.cli.test_export_predictions import export, rows_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def on_sample(name: str, sample: SampleFiles, image_size_px: int = 180) -> Config:
    config = load_config(str(CONFIGS / f"{name}.py"))
    data = DataConfig(
        train=str(sample.train), categories=str(sample.categories), image_size_px=image_size_px
    )
    return dataclasses.replace(config, data=data)


def all_probabilities(workdir: Path, spec: str) -> tuple[np.ndarray, Products]:
    opened = open_run(workdir)
    products = opened.products(spec)
    blocks = predict_products(
        products,
        opened.batches(products, 32),
        opened.predict_step(topk=1, keep_all=True),
        opened.mesh,
    )
    found = [block.probabilities for block, _ in blocks]
    return np.concatenate([each for each in found if each is not None]), products


def test_the_prior_is_the_frequencies_and_reads_no_photo(
    sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def never(*_: object) -> None:
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr("product_mil.data.decode.decode_into", never)
    workdir = tmp_path / "run"
    run(on_sample("prior", sample), workdir)
    counts = np.array(json.loads((workdir / "run.json").read_text())["class_counts"])
    assert counts.sum() == 96  # of 120, without the validation part
    found, products = all_probabilities(workdir, str(sample.train))
    wanted = (counts + 1) / (counts.sum() + len(counts))
    np.testing.assert_allclose(found, np.tile(wanted, (len(products), 1)), rtol=1e-5)
    # The most frequent category, and nothing else, is the answer; and it is measured as such.
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    export("--workdir", workdir, "--data", sample.train, "--output", tmp_path / "s.csv")
    guesses = {category for _, category in rows_of(tmp_path / "s.csv")}
    assert guesses == {int(open_run(workdir).categories.ids[counts.argmax()])}
    valid = build_data(on_sample("prior", sample)).valid
    assert row["valid/top1"] == (valid.labels == counts.argmax()).mean()
    assert row["valid/nll"] == pytest.approx(-np.log(wanted[valid.labels]).mean(), rel=1e-5)
    run(on_sample("prior", sample), workdir)  # complete: nothing more is written
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 1


def tree_config(sample: SampleFiles) -> Config:
    config = on_sample("tree", sample, image_size_px=48)
    stage = StageConfig(epochs=6, trainable="head", images_per_batch=32, learning_rate=3e-3)
    return dataclasses.replace(config, head=stage)


@pytest.mark.slow
def test_the_tree_trains_from_the_cache_and_an_interruption_changes_nothing(
    sample: SampleFiles, tmp_path: Path
):
    config = tree_config(sample)
    run(config, tmp_path / "whole")
    rows = [json.loads(r) for r in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["valid/top1"] > 0.3
    assert rows[-1]["valid/nll"] < rows[0]["valid/nll"]
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut", time.monotonic() - 1)  # after one step
    assert open_run(tmp_path / "cut").step == 1
    run(config, tmp_path / "cut")
    whole, cut = (open_run(tmp_path / name) for name in ("whole", "cut"))
    assert whole.step == cut.step == rows[-1]["step"]
    for path, leaf in whole.model.parameters.items():
        np.testing.assert_array_equal(cut.model.parameters[path], leaf, err_msg=path)
    found, _ = all_probabilities(tmp_path / "whole", str(sample.train))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_passes_over_the_features_take_little_memory(sample: SampleFiles, tmp_path: Path):
    """docs/measured/seed_table.md: batches in flight and 100 bytes an image, however wide."""
    catalogue = open_catalogue(str(sample.train))
    hashes = catalogue.image_hash
    assert hashes is not None
    dim = 40_000
    store = EmbeddingStore(tmp_path / "store", dim=dim, dtype="float32")
    random = np.random.default_rng(0)
    for start in range(0, len(hashes), 20):
        some = np.asarray(hashes[start : start + 20])
        store.add(some, random.random((len(some), dim), np.float32))
    store.reload()
    on_disk = sum(file.stat().st_size for file in store.directory.rglob("embedding.npy"))
    assert on_disk > 30_000_000
    rows = np.arange(catalogue.num_products)
    products = Products(catalogue, rows, np.zeros(len(rows), np.int32), 4)
    plan = ShuffledPlan(products.num_images, shards=1, image_slots=8, seed=0)
    batch_bytes = 8 * dim * 4
    tracemalloc.start()
    source = EmbeddedSource(products, plan, store, num_steps=2 * plan.num_steps)
    sums = sum(float(each.batch.embeddings.sum()) for each in batches(source, threads=1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sums > 0
    # A batch is made, gathered from a copy of its rows, and four more may wait for their turn.
    assert peak < 7 * batch_bytes + 100 * len(hashes) + 1_000_000 < on_disk / 2


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ({"config": "prior", "head.epochs": "1"}, "is counted, not trained"),
        ({"config": "prior", "model.backbone": "small_cnn"}, "prior and none go together"),
        ({"config": "tree", "finetune.epochs": "1"}, "has nothing to finetune"),
        ({"config": "tree", "augment.flip": "0.5"}, "takes no augmentation"),
        ({"config": "tree", "model.weights": "imagenet"}, "a tree takes none"),
        ({"config": "cnn_1", "finetune.trainable": "blocks/7"}, "a block of cnn_1: blocks/0, "),
    ],
)
def test_what_cannot_be_is_refused(assignments: dict[str, str], message: str):
    from product_mil.config import override, problems
    from product_mil.runs.check import check_config

    config = load_config(str(CONFIGS / f"{assignments.pop('config')}.py"))
    config, wrong = override(config, list(assignments.items()))
    assert not wrong
    found = problems(config) + check_config(config)
    assert any(message in line for line in found), found
