"""What `product_mil.load` returns: predictions, probabilities and embeddings of images."""

import dataclasses
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import product_mil
from product_mil import api
from product_mil.api import Classifier
from product_mil.data.decode import decode_into
from product_mil.errors import UserError
from product_mil.prediction import ImagePrediction, Prediction, SureAnswer
from product_mil.runs.embed import embed_function
from product_mil.runs.opening import open_run
from tests.api.conftest import BROKEN


def test_a_prediction(classifier: Classifier, products: list[list[bytes]], trained: Path) -> None:
    probabilities = classifier.predict_proba(products)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    predictions = classifier.predict(products)
    for prediction, row, best in zip(predictions, probabilities, order[:, :5], strict=True):
        assert prediction.category_ids == tuple(classifier.category_ids[best].tolist())
        assert prediction.probabilities == tuple(row[best].tolist())
        assert prediction.names == tuple(classifier.names[place] for place in best)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    categories = open_run(trained).categories
    np.testing.assert_array_equal(classifier.category_ids, categories.ids)
    assert classifier.names == tuple(tuple(dict.fromkeys(path)) for path in categories.names)
    assert "gated_attention over small_cnn" in classifier.summary
    assert classifier.summary in repr(classifier)
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, len(categories.ids))
    assert classifier.embed([]) == []

    (three,) = classifier.predict(products[:1], topk=3)
    assert three.category_ids == predictions[0].category_ids[:3]
    (all_of_them,) = classifier.predict(products[:1], topk=10**6)
    assert sorted(all_of_them.category_ids) == categories.ids.tolist()
    with pytest.raises(ValueError, match="topk=0: must be at least 1"):
        classifier.predict(products, topk=0)


def test_confidence(classifier: Classifier, products: list[list[bytes]]) -> None:
    run = classifier._run
    temperature = run.temperature
    assert temperature is not None
    powers = classifier.predict_proba(products).astype(np.float64) ** (1 / temperature)
    wanted = (powers / powers.sum(1, keepdims=True)).max(1)
    predictions = classifier.predict(products, min_confidence=1.0)
    for prediction, confidence in zip(predictions, wanted, strict=True):
        if not prediction.from_prior:
            assert prediction.confidence == pytest.approx(confidence, rel=1e-5)
        assert prediction.sure == SureAnswer(level=0, category_id=None, names=(), probability=1.0)
        assert json.loads(json.dumps(prediction.to_dict())) == prediction.to_dict()
    prior = predictions[5]
    assert prior.from_prior
    assert prior.confidence == pytest.approx(prior.probabilities[0], rel=1e-6)  # as it is

    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"min_confidence=.*: must be from 0 to 1"):
            classifier.predict(products, min_confidence=wrong)
    record = {key: value for key, value in run.record.items() if key != "validation"}
    earlier = Classifier(dataclasses.replace(run, record=record))
    assert earlier.predict(products[:1])[0].confidence is None
    with pytest.raises(UserError, match="does not say how to calibrate"):
        earlier.predict(products[:1], min_confidence=0.5)


def test_a_call_of_which_no_image_can_be_used_is_warned_of(
    classifier: Classifier, products: list[list[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    wrong: list[Any] = [[np.zeros((9, 9, 3), np.float32)], [np.zeros((9, 9, 3), np.uint16)]]
    for call in (classifier.predict, classifier.predict_proba):
        for given, warnings in ((wrong, 1), ([*wrong, products[0]], 0), ([[]], 0), ([], 0)):
            caplog.clear()
            call(given)
            assert len(caplog.records) == warnings
            for record in caplog.records:
                assert record.levelname == "WARNING"
                assert "the array is float32[9, 9, 3], and not uint8" in record.getMessage()


def test_equal_predictions_print_alike(classifier: Classifier, products: list[list[bytes]]) -> None:
    once, again = classifier.predict(products), classifier.predict(products)
    assert once == again
    assert list(map(repr, once)) == list(map(repr, again))
    assert once[0] != once[1]
    assert len({*once, *again}) == len(set(once))  # can be hashed
    found = once[6].to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "category_ids": list(once[6].category_ids),
        "names": [list(path) for path in once[6].names],
        "probabilities": list(once[6].probabilities),
        "confidence": once[6].confidence,
        "sure": None,
        "images": [dataclasses.asdict(image) for image in once[6].images],
        "from_prior": False,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        once[0].from_prior = True  # type: ignore[misc]


def unused(error: str) -> ImagePrediction:
    return ImagePrediction(attention=0.0, category_id=None, contribution=None, error=error)


def test_a_bad_image_costs_that_image(classifier: Classifier, products: list[list[bytes]]) -> None:
    good = products[0][0]
    bad = [BROKEN, "nowhere.jpg", np.zeros((4, 4), np.uint8)]
    wanted, prior = classifier.predict([[good], []])
    for image in (*bad, good[:-200]):
        with_bad, alone = classifier.predict([[image, good], [image]])
        assert with_bad.images[0].error
        assert with_bad.images[0] == unused(with_bad.images[0].error)
        assert with_bad.images[1].error is None
        np.testing.assert_allclose(with_bad.probabilities, wanted.probabilities, atol=1e-6)
        assert with_bad.category_ids == wanted.category_ids
        assert alone == dataclasses.replace(prior, images=with_bad.images[:1])
    (found,) = classifier.predict([bad])
    assert [image.error for image in found.images] == [
        "not a readable image: it is a text that begins with 'no image'",
        "nowhere.jpg: there is no such file",
        "the array is uint8[4, 4], and not uint8[h, w, 3]",
    ]
    assert prior.from_prior
    assert prior.images == ()
    frequent = classifier._run.class_counts.argmax()
    assert prior.category_ids[0] == classifier.category_ids[frequent]


def test_images_that_are_not_used(classifier: Classifier, products: list[list[bytes]]) -> None:
    used, more = products[6][:4], products[6][4:]
    surplus = unused("not used: the model takes the first 4 images")
    (wanted,), (found,) = classifier.predict([used]), classifier.predict([used + more])
    assert len(wanted.images) == 4
    assert found == dataclasses.replace(wanted, images=(*wanted.images, surplus, surplus, surplus))

    md5 = hashlib.md5(used[1]).hexdigest()
    run = classifier._run
    config = dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, drop_images_md5=(md5,))
    )
    dropping = Classifier(dataclasses.replace(run, config=config))
    (found,) = dropping.predict([used + more])
    (wanted,) = classifier.predict([[used[0], *used[2:], more[0]]])
    placeholder = unused(
        "not used: config.data.drop_images_md5 of the run names it as a placeholder"
    )
    images = (wanted.images[0], placeholder, *wanted.images[1:], surplus, surplus)
    assert found == dataclasses.replace(wanted, images=images)


def test_calls_of_any_size_compile_nothing_new(
    trained: Path, products: list[list[bytes]], traced: list[Any]
) -> None:
    classifier = product_mil.load(trained)
    classifier.predict(products[:1])
    classifier.predict(products)
    assert len(traced) == 2  # of a few images, and of many
    for count in (1, 2, 7, 20, 49):
        classifier.predict(products[-count:], topk=count)
        classifier.predict_proba([[]] * count)
        classifier.predict_proba([products[0][:1]] * count)
    assert len(traced) == 2
    classifier.embed(products[:1])
    classifier.embed(products)
    assert len(traced) == 3


def test_parts_and_threads_change_nothing(
    classifier: Classifier, products: list[list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, embedded = classifier.predict_proba(products), classifier.embed(products)
    found: dict[int, np.ndarray] = {}

    def predict(number: int) -> None:
        found[number] = classifier.predict_proba(iter(products))

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        np.testing.assert_array_equal(found[number], wanted)
    monkeypatch.setattr("product_mil.api.PRODUCTS_AT_ONCE", 7)
    np.testing.assert_allclose(classifier.predict_proba(products), wanted, rtol=0, atol=1e-6)
    errors = [[image.error for image in p.images] for p in classifier.predict(products)]
    assert [index for index, of in enumerate(errors) if any(of)] == [3, 4, 6, 8]
    for one, other in zip(classifier.embed(products), embedded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_embedding_for_each_image(classifier: Classifier, products: list[list[bytes]]) -> None:
    found = classifier.embed(products[:8])
    assert [len(values) for values in found] == [len(product) for product in products[:8]]
    run = classifier._run
    embed = embed_function(run.model, run.mesh)
    pixels = np.zeros((16, 48, 48, 3), np.uint8)
    for values, product in zip(found, products, strict=False):
        for row, image in zip(values, product, strict=True):
            if image == BROKEN:
                assert np.isnan(row).all()
            else:
                decode_into(image, pixels[0])
                np.testing.assert_allclose(row, embed(pixels)[0], rtol=1e-5, atol=1e-6)
    assert len(found[6]) == 7  # more than `predict` uses


def test_where_there_is_no_run(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(product_mil.UserError, match="no such directory"):
        product_mil.load(tmp_path / "nowhere")
    with pytest.raises(product_mil.UserError, match="holds no checkpoint"):
        product_mil.load(str(tmp_path))
    with pytest.raises(ValueError, match="must be 'last' or 'best'"):
        api.load.__wrapped__(trained, "newest")  # type: ignore[attr-defined]
    last, best = (product_mil.load(str(trained), name) for name in ("last", "best"))
    assert last.summary == open_run(trained).summary
    assert best.summary == open_run(trained, "best").summary
    assert isinstance(last.predict([[]])[0], Prediction)
