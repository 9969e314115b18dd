"""Requests that wait share a call, and none of them costs another one its answer."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

import product_mil
from product_mil.api import Classifier
from product_mil.prediction import Prediction, Question
from product_mil.serve.batching import Batcher
from product_mil.serve.limits import Limits, Refused
from product_mil.serve.metrics import Meters

BAD = b"an image that the classifier fails on"


class Held(Classifier):
    """A classifier that waits for a permission before each prediction, and notes its calls."""

    def __init__(self, of: Classifier) -> None:
        super().__init__(of._run)
        self.permissions = threading.Semaphore(0)
        self.calls: list[int] = []  # images of each

    def answers(self, questions: Iterable[Question]) -> Iterator[Prediction]:
        asked = list(questions)
        self.calls.append(sum(len(question.images) for question in asked))
        if any(image is BAD for question in asked for image in question.images):
            raise MemoryError("of the device")
        for prediction in super().answers(asked):
            self.permissions.acquire()
            yield prediction


class Asking:
    """A batcher of a held classifier, that runs in this thread's event loop."""

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self.held, self.meters = Held(classifier), Meters()
        self.held.permissions.release(1000)
        self.batcher = Batcher(self.held, "model", limits, self.meters)

    def run(self, questions: Callable[["Asking"], Awaitable[None]]) -> None:
        """Run a coroutine once the model is compiled, and no permission is left."""

        async def all_of_it() -> None:
            self.batcher.start()
            while not self.batcher.is_ready:
                assert self.batcher.failure is None
                await asyncio.sleep(0.01)
            while self.held.permissions.acquire(blocking=False):
                pass
            self.held.calls.clear()
            await questions(self)

        try:
            asyncio.run(all_of_it())
        finally:
            self.held.permissions.release(1000)
            self.batcher.close()

    async def ask(self, *questions: Question) -> "asyncio.Task[list[Prediction]]":
        """A request, which is in the queue when this returns."""
        task = asyncio.ensure_future(self.batcher.ask(questions))
        await asyncio.sleep(0)
        return task

    async def one_that_is_computed(self, question: Question) -> "asyncio.Task[list[Prediction]]":
        """A request that has left the queue, so that others wait until it is permitted to end."""
        task = await self.ask(question)
        while not self.held.calls:
            await asyncio.sleep(0.01)
        return task


def value(asking: Asking, name: str) -> float | None:
    return asking.meters.registry.get_sample_value(f"product_mil_{name}", {"model": "model"})


def test_what_waits_is_answered_together(
    classifier: Classifier, products: list[list[bytes]]
) -> None:
    room = classifier.facts.batch_images
    one, two = [products[0][:1], products[1][:1]]
    full = [image for product in products for image in product][: room - 1]

    async def ask(asking: Asking) -> None:
        first = await asking.one_that_is_computed(Question(one))
        others = [
            await asking.ask(Question(two, topk=2)),
            await asking.ask(*(Question([image], min_confidence=0.5) for image in full)),
            await asking.ask(Question(one, min_confidence=0.9)),
        ]
        assert value(asking, "waiting_images") == room + 1
        asking.held.permissions.release(1000)
        found = [await task for task in (first, *others)]
        assert asking.held.calls == [1, room, 1]
        assert value(asking, "waiting_images") == 0
        assert value(asking, "images_total") == room + 2
        assert value(asking, "batch_images_count") == 3
        assert value(asking, "batch_images_sum") == room + 2
        alone = [
            classifier.predict([one]),
            classifier.predict([two], topk=2),
            classifier.predict([[image] for image in full], min_confidence=0.5),
            classifier.predict([one], min_confidence=0.9),
        ]
        assert [len(each) for each in found] == [1, 1, len(full), 1]
        for prediction, wanted in zip(chain(*found), chain(*alone), strict=True):
            assert prediction.category_ids == wanted.category_ids
            assert prediction.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)
            assert (prediction.sure is None) == (wanted.sure is None)
            if prediction.sure is not None and wanted.sure is not None:
                assert prediction.sure.names == wanted.sure.names
                assert prediction.sure.probability == pytest.approx(wanted.sure.probability)

    Asking(classifier, Limits()).run(ask)


def test_an_answer_does_not_wait_for_the_rest_of_its_call(
    classifier: Classifier, products: list[list[bytes]]
) -> None:
    async def ask(asking: Asking) -> None:
        first = await asking.one_that_is_computed(Question(products[0]))
        second, third = [await asking.ask(Question(products[number])) for number in (1, 2)]
        asking.held.permissions.release(2)
        await first
        await second
        assert len(asking.held.calls) == 2
        assert not third.done()
        asking.held.permissions.release(1)
        await third
        assert len(asking.held.calls) == 2

    Asking(classifier, Limits()).run(ask)


def test_a_failure_costs_that_request_alone(
    classifier: Classifier, products: list[list[bytes]]
) -> None:
    async def ask(asking: Asking) -> None:
        first = await asking.one_that_is_computed(Question(products[0]))
        tasks = [
            await asking.ask(Question(images))
            for images in (products[1][:1], [BAD], products[2][:1])
        ]
        asking.held.permissions.release(1000)
        await first
        with pytest.raises(MemoryError):
            await tasks[1]
        for task, images in ((tasks[0], products[1]), (tasks[2], products[2])):
            (found,) = await task
            assert found.category_ids == classifier.predict([images[:1]])[0].category_ids

    Asking(classifier, Limits()).run(ask)


def test_a_full_queue_and_a_long_wait(classifier: Classifier, products: list[list[bytes]]) -> None:
    async def ask(asking: Asking) -> None:
        first = await asking.one_that_is_computed(Question(products[0]))
        second = await asking.ask(Question([b"a", b"b"]))  # more than may wait, but none waits yet
        third = await asking.ask(Question(products[1]))
        with pytest.raises(Refused, match="2 images wait already; try again later") as refused:
            await third
        assert refused.value.status == 429
        assert refused.value.headers == {"retry-after": "1"}
        await asyncio.sleep(0.05)
        asking.held.permissions.release(1000)
        await first
        with pytest.raises(Refused, match=r"waited for more than 0.05 s; try again") as refused:
            await second
        assert refused.value.status == 503
        assert len(await (await asking.ask(Question(products[1])))) == 1
        assert value(asking, "waiting_images") == 0

    Asking(classifier, Limits(waiting_images=1, wait_s=0.05)).run(ask)


def test_what_waits_when_the_server_stops(
    classifier: Classifier, products: list[list[bytes]]
) -> None:
    async def ask(asking: Asking) -> None:
        first = await asking.one_that_is_computed(Question(products[0]))
        second = await asking.ask(Question(products[1]))
        asking.batcher.close()
        third = await asking.ask(Question(products[2]))
        for task in (second, third):
            with pytest.raises(Refused, match="the server is stopping") as refused:
                await task
            assert refused.value.status == 503
        asking.held.permissions.release(1000)
        assert len(await first) == 1

    Asking(classifier, Limits()).run(ask)


def test_a_request_that_was_cancelled(classifier: Classifier, products: list[list[bytes]]) -> None:
    async def ask(asking: Asking) -> None:
        first = await asking.one_that_is_computed(Question(products[0]))
        first.cancel()
        second = await asking.ask(Question(products[1]))
        asking.held.permissions.release(1000)
        assert len(await second) == 1

    Asking(classifier, Limits()).run(ask)


def test_a_model_that_cannot_be_compiled(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = MemoryError("of the device")

    def compile_it(_: Classifier) -> None:
        raise failure

    monkeypatch.setattr(Classifier, "compile", compile_it)
    batcher = Batcher(classifier, "model", Limits(), Meters())
    batcher.start()
    batcher._thread.join(10)
    assert not batcher.is_ready
    assert batcher.failure is failure


def test_the_sizes_that_are_compiled(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from product_mil.inference import step

    traced: list[int] = []
    merge_model = step.merge_model
    monkeypatch.setattr(step, "merge_model", lambda *args: traced.append(1) or merge_model(*args))
    classifier = product_mil.load(trained)
    classifier.compile()
    assert len(traced) == 2
    for count in (1, 3, classifier.facts.batch_images, 2 * classifier.facts.batch_images):
        classifier.predict([[b"no image"]] * count)
    assert len(traced) == 2
