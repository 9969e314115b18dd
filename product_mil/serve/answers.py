"""What a classifier says, in the words of the wire."""

from collections.abc import Sequence
from functools import cached_property

from product_mil.api import Classifier
from product_mil.prediction import Prediction
from product_mil.serve.schema import Category, Image, LikelyCategory, Model, Product, Sure
from product_mil.sources.ids import Id


class Words:
    """Turns a classifier and its predictions into parts of answers."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        ids: list[Id] = classifier.category_ids.tolist()
        self.names_of = dict(zip(ids, classifier.names, strict=True))

    @cached_property
    def model(self) -> Model:
        """The model itself."""
        facts = self._classifier.facts
        return Model(
            name=facts.name,
            summary=f"{facts.pooling} over {facts.backbone}, {len(self.names_of)} categories",
            pooling=facts.pooling,
            backbone=facts.backbone,
            calibrated=facts.is_calibrated,
            sums_over_images=facts.sums_over_images,
        )

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """All categories of the model."""
        return tuple(
            Category(category_id=category_id, names=names)
            for category_id, names in self.names_of.items()
        )

    def search(self, query: str) -> tuple[Category, ...]:
        """The categories whose id or path has the query in it, in capitals or not."""
        wanted = query.casefold()
        texts = zip(self.categories, self._texts, strict=True)
        return tuple(category for category, text in texts if wanted in text)

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        """What is searched of each category."""
        return tuple(
            f"{each.category_id} {' > '.join(each.names)}".casefold() for each in self.categories
        )

    def products(
        self, ids: Sequence[Id | None], predictions: Sequence[Prediction]
    ) -> tuple[Product, ...]:
        """The answers for these products."""
        return tuple(map(self._product, ids, predictions))

    def _product(self, product_id: Id | None, prediction: Prediction) -> Product:
        likely = zip(
            prediction.category_ids, prediction.names, prediction.probabilities, strict=True
        )
        sure = prediction.sure
        return Product(
            id=product_id,
            categories=tuple(
                LikelyCategory(category_id=category_id, names=names, probability=probability)
                for category_id, names, probability in likely
            ),
            confidence=prediction.confidence,
            sure=sure
            and Sure(
                level=sure.level,
                category_id=sure.category_id,
                names=sure.names,
                probability=sure.probability,
            ),
            images=tuple(
                Image(
                    attention=image.attention,
                    category_id=image.category_id,
                    names=None if image.category_id is None else self.names_of[image.category_id],
                    contribution=image.contribution,
                    error=image.error,
                )
                for image in prediction.images
            ),
            from_prior=prediction.from_prior,
        )
