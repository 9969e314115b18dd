"""Requests that wait are answered together: one thread for each model takes what is there."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from product_mil.api import Classifier
from product_mil.prediction import Prediction, Question
from product_mil.serve.limits import BUSY_S, Limits, Refused
from product_mil.serve.metrics import Meters

STOPPING = "the server is stopping; try again later"


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A request in the queue, and where its answer goes."""

    questions: Sequence[Question]
    num_images: int
    until: float  # by `time.monotonic`
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[list[Prediction]]"

    def resolve(self, found: list[Prediction] | Exception) -> None:
        """Hand over the answer, from any thread."""
        self.loop.call_soon_threadsafe(self._set, found)

    def _set(self, found: list[Prediction] | Exception) -> None:
        if self.answer.done():  # its request was cancelled
            return
        if isinstance(found, Exception):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)


class Batcher:
    """A classifier that answers all requests that wait in one call, in a thread of its own."""

    def __init__(self, classifier: Classifier, name: str, limits: Limits, meters: Meters) -> None:
        """`name` tells the models of a server apart in its metrics."""
        self.classifier, self._limits = classifier, limits
        self._meters = meters.of_model(name)
        self._queue: deque[_Waiting] = deque()
        self._num_images = 0  # that wait
        self._room = 0  # for images, in a call
        self._changed = threading.Condition()
        self._closed = False
        self.is_ready = False
        self.failure: BaseException | None = None  # of the compilation, which ends the thread
        self._thread = threading.Thread(target=self._work, name=f"model {name}", daemon=True)

    def start(self) -> None:
        """Compile in the thread, which answers when that is done."""
        self._thread.start()

    def close(self) -> None:
        """Refuse what waits and what comes, and end the thread after the call that it is in."""
        with self._changed:
            self._closed = True
            for each in self._queue:
                each.resolve(Refused(503, STOPPING, BUSY_S))
            self._queue.clear()
            self._changed.notify()

    def join(self) -> None:
        """Wait for the end of the thread, which may still compile."""
        self._thread.join()

    async def ask(self, questions: Sequence[Question]) -> list[Prediction]:
        """The answers to the questions of a request.

        Raises:
            Refused: too many images wait already, or these waited for too long.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            questions,
            num_images=sum(len(question.images) for question in questions),
            until=time.monotonic() + self._limits.wait_s,
            loop=loop,
            answer=loop.create_future(),
        )
        with self._changed:
            if self._closed:
                raise Refused(503, STOPPING, BUSY_S)
            if self._num_images >= self._limits.waiting_images:
                line = f"{self._num_images} images wait already; try again later"
                raise Refused(429, line, BUSY_S)
            self._queue.append(waiting)
            self._add(waiting.num_images)
            self._changed.notify()
        return await waiting.answer

    def _add(self, num_images: int) -> None:
        self._num_images += num_images
        self._meters.waiting.set(self._num_images)

    def _work(self) -> None:
        try:
            self.classifier.compile()
            self._room = self.classifier.facts.batch_images
        except BaseException as failure:
            self.failure = failure
            return
        self.is_ready = True
        while batch := self._take():
            self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """What waits, up to the largest batch of the model; nothing when the batcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            found: list[_Waiting] = []
            room = self._room
            while self._queue and (not found or self._queue[0].num_images <= room):
                first = self._queue.popleft()
                self._add(-first.num_images)
                if first.until < time.monotonic():
                    line = f"the request waited for more than {self._limits.wait_s:g} s"
                    first.resolve(Refused(503, f"{line}; try again later", BUSY_S))
                    continue
                found.append(first)
                room -= first.num_images
        return found or ([] if self._closed else self._take())

    def _answer(self, batch: list[_Waiting]) -> None:
        """Answer each request as soon as its last product is known."""
        self._meters.batch_images.observe(sum(each.num_images for each in batch))
        left = deque(batch)
        found: list[Prediction] = []
        try:
            asked = [question for each in batch for question in each.questions]
            for prediction in self.classifier.answers(asked):
                found.append(prediction)
                self._count(prediction)
                if len(found) == len(left[0].questions):
                    left.popleft().resolve(found)
                    found = []
        except Exception as error:
            if len(batch) == 1:
                batch[0].resolve(error)
                return
            for each in left:  # so that one of them costs no other one its answer
                self._answer([each])

    def _count(self, prediction: Prediction) -> None:
        self._meters.images.inc(len(prediction.images))
        self._meters.unreadable.inc(sum(image.error is not None for image in prediction.images))
