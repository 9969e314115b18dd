"""What a server holds: its models, examples, limits and meters, and how a request is answered."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request

from product_mil.api import Classifier
from product_mil.prediction import Question
from product_mil.serve.answers import Words
from product_mil.serve.batching import Batcher
from product_mil.serve.examples import ExampleProduct
from product_mil.serve.limits import BUSY_S, Limits, Refused
from product_mil.serve.metrics import Meters
from product_mil.serve.reading import Asked, Intake
from product_mil.serve.schema import ModelAnswer, PredictAnswer, Product

_STARTING = "the model is being compiled; try again in a few seconds"


class _Served(NamedTuple):
    """A model with the thread that asks it."""

    batcher: Batcher
    words: Words


class Service:
    """One model, or two beside each other, that answer requests."""

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        examples: Sequence[ExampleProduct] = (),
        limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    ) -> None:
        """`classifiers` are the model, and the one beside it if there is one."""
        self.examples, self.limits, self.meters = examples, limits, Meters()
        self.is_stopping = False  # so clients should not send more over their connections
        self._intake = Intake(limits)
        self._models = [
            _Served(Batcher(classifier, name, limits, self.meters), Words(classifier))
            for classifier, name in zip(classifiers, ("model", "beside"), strict=False)
        ]

    @property
    def words(self) -> Words:
        """The words for the first model."""
        return self._models[0].words

    def start(self) -> None:
        """Compile the models, each in its thread."""
        for model in self._models:
            model.batcher.start()

    def close(self) -> None:
        """Refuse what waits and what comes."""
        for model in self._models:
            model.batcher.close()

    def join(self) -> None:
        """Wait for the threads: a process that ends while one of them compiles would crash."""
        for model in self._models:
            model.batcher.join()

    @property
    def failure(self) -> BaseException | None:
        """Why a model could not be compiled; None where all is well."""
        failures = (model.batcher.failure for model in self._models)
        return next((each for each in failures if each is not None), None)

    def refuse_while_starting(self) -> None:
        """Raise `Refused` until all models are compiled."""
        if not all(model.batcher.is_ready for model in self._models):
            raise Refused(503, _STARTING, BUSY_S)

    async def predict(self, request: Request) -> PredictAnswer:
        """The answer to a request.

        Raises:
            Refused: it is not as it should be, or the server is too busy.
        """
        self.refuse_while_starting()
        async with self._intake.read(request) as asked:
            answers = await asyncio.gather(
                *(self._ask(model, asked) for model in self._models_for(asked))
            )
        return PredictAnswer(products=answers[0], beside=answers[1] if len(answers) > 1 else None)

    async def _ask(self, model: _Served, asked: Asked) -> tuple[Product, ...]:
        topk, least = asked.options.topk, asked.options.min_confidence
        questions = [Question(images, topk, least) for images in asked.products]
        return model.words.products(asked.ids, await model.batcher.ask(questions))

    def _models_for(self, asked: Asked) -> list[_Served]:
        options = asked.options
        if options.beside and len(self._models) == 1:
            raise Refused(422, "beside: this server holds one model; leave it out")
        chosen = self._models if options.beside else self._models[:1]
        for model in chosen:
            if options.min_confidence is not None and not model.words.model.calibrated:
                name = model.words.model.name
                raise Refused(422, f"min_confidence: {name} is not calibrated; leave it out")
        return chosen

    def describe(self) -> ModelAnswer:
        """The models, and the limits of requests."""
        self.refuse_while_starting()
        first, limits = self._models[0], self.limits
        facts = first.batcher.classifier.facts
        return ModelAnswer(
            model=first.words.model,
            beside=self._models[1].words.model if len(self._models) > 1 else None,
            max_images=facts.max_images,
            max_images_accepted=limits.images,
            max_products=limits.products,
            max_image_bytes=limits.image_bytes,
            image_size_px=facts.image_size_px,
            num_categories=len(first.words.names_of),
            levels=facts.levels,
        )
