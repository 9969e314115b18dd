"""The rows of scikit-learn, by value, and the whole benchmark on the embedded sample."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.studies import heads, linear
from product_mil.data.products import Products
from product_mil.model.classifier import merge_model
from product_mil.runs.data import build_data, data_config
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.runs.trained import TrainedRun
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT


@pytest.fixture(scope="module")
def frozen(
    trained: Path, cache_of_tests: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainedRun:
    """A run that leaves its net as it is, so that there are embeddings to learn from."""
    config = open_run(trained).config
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, embedding_cache=True),
        head=dataclasses.replace(config.head, epochs=1),
        finetune=dataclasses.replace(config.finetune, epochs=0),
    )
    workdir = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRODUCT_MIL_CACHE", str(cache_of_tests))
        run(config, workdir)
    return open_run(workdir)


def embedded_images(run: TrainedRun, products: Products) -> list[np.ndarray]:
    """The embeddings of each product's images, from pixels and without any cache."""
    model = merge_model(run.model.structure, run.model.parameters, run.model.statistics)
    found: dict[int, list[np.ndarray]] = {}
    for loaded in run.batches(products, 64, pixels=True):
        embeddings = np.asarray(model.embed(loaded.batch, use_running_statistics=True))
        for shard, slot in zip(*np.nonzero(loaded.batch.slots.is_image), strict=True):
            product = loaded.positions[shard, loaded.batch.slots.segment[shard, slot]]
            found.setdefault(int(product), []).append(embeddings[shard, slot])
    return [np.stack(found[product]) for product in range(len(products))]


@pytest.mark.slow
def test_equal_scikit_learn_used_by_hand(frozen: TrainedRun, sample: SampleFiles) -> None:
    test = frozen.products(str(sample.train))
    found = linear.rivals(frozen, test)
    images = embedded_images(frozen, test)
    rows = np.searchsorted(
        test.product_rows, build_data(data_config(frozen.config)).train.product_rows
    )
    mean = np.stack([x.mean(0) for x in images])
    both = np.concatenate([mean, np.stack([x.max(0) for x in images])], 1)
    for name, x in (("mean", mean), ("[mean; max]", both)):
        scale = StandardScaler().fit(x[rows])
        model = LogisticRegression(C=0.01, max_iter=2000)
        model.fit(scale.transform(x[rows]), test.labels[rows])
        wanted = model.predict_log_proba(scale.transform(x))
        ours = found[f"scikit-learn, {name}"][:, model.classes_]
        np.testing.assert_allclose(ours, wanted, atol=0.02)
        assert ours.std() > 0.1
    x = np.concatenate([images[row] for row in rows])
    labels = np.repeat(test.labels[rows], [len(images[row]) for row in rows])
    scale = StandardScaler().fit(x)
    model = LogisticRegression(C=0.01, max_iter=2000).fit(scale.transform(x), labels)
    each = [model.predict_log_proba(scale.transform(x)).mean(0) for x in images]
    wanted = np.asarray(jax.nn.log_softmax(np.stack(each)))
    ours = found["scikit-learn, images, geometric"][:, model.classes_]
    np.testing.assert_allclose(ours, wanted, atol=0.02)


def test_a_class_that_was_not_learned_is_not_guessed() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    labels = np.asarray([0, 2] * 10, np.int32)
    found = linear.log_probs_of(x, labels, x, 4)
    np.testing.assert_array_equal(found[:, [1, 3]], linear.FLOOR)
    np.testing.assert_allclose(np.exp(found[:, [0, 2]]).sum(1), 1)


@pytest.mark.slow
def test_the_whole_benchmark(
    sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = (sample.train, sample.train, sample.categories, sample.train)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    arguments = (
        "heads.py", "--weights", "", "--net", "small_cnn", "--workdir", tmp_path, "--seeds", "0,1",
        "--steps", "3", "--poolings", "probabilities,residual,posterior_attention",
        "--set", "sample", *files,
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    heads.main()
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| head |"))
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]
    )
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(table) == [
        "probabilities", "residual", "geometric", "posterior_attention",
        "scikit-learn, images, geometric", "scikit-learn, mean", "scikit-learn, [mean; max]",
    ]  # fmt: skip
    own, averaged = (
        float(table[name]["top-1"].split()[0]) for name in ("posterior_attention", "probabilities")
    )
    gap = float(table["posterior_attention"]["- probabilities, points"].split()[0])
    assert gap == pytest.approx(100 * (own - averaged), abs=0.16)
    assert table["probabilities"]["- probabilities, points"] == ""
    assert [row["seeds"] for row in table.values()] == ["2"] * 4 + ["1"] * 3
    assert table["residual"]["attention agree / disagree"] == ""
    assert " / " in table["posterior_attention"]["attention agree / disagree"]
