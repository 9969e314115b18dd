"""The first rival of every head: scikit-learn's logistic regression on the same embeddings."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from product_mil.batch import EmbeddedBatch
from product_mil.data.products import Products
from product_mil.runs.data import build_data, data_config
from product_mil.runs.trained import TrainedRun

FLOOR = -20.0  # log-probability of a class without a training product


class Images:
    """The embeddings of N products' images, product after product, and the products' classes."""

    def __init__(self, run: TrainedRun, products: Products):
        x, owner = [], []
        for loaded in run.batches(products, 256):
            batch = loaded.batch
            assert isinstance(batch, EmbeddedBatch), "the backbone has to stay frozen"
            is_image = np.asarray(batch.slots.is_image)
            padded = np.pad(loaded.positions, ((0, 0), (0, 1)))  # where padding slots point to
            owner.append(np.take_along_axis(padded, batch.slots.segment, 1)[is_image])
            x.append(np.asarray(batch.embeddings, np.float32)[is_image])
        order = np.argsort(np.concatenate(owner), kind="stable")
        self.x: Float[np.ndarray, "M d"] = np.concatenate(x)[order]
        self.owner: Int[np.ndarray, " M"] = np.concatenate(owner)[order]
        self.labels: Int[np.ndarray, " N"] = products.labels

    @property
    def seen(self) -> Int[np.ndarray, " n"]:
        """The products with a readable image; the rows of `pooled`."""
        return np.unique(self.owner)

    def pooled(self, *names: str) -> Float[np.ndarray, "n e"]:
        """Mean or max of each product's embeddings, or both side by side."""
        first = np.flatnonzero(np.diff(self.owner, prepend=-1))
        counts = np.diff(first, append=len(self.owner))[:, None]
        found = {
            "mean": np.add.reduceat(self.x, first) / counts,
            "max": np.maximum.reduceat(self.x, first),
        }
        return np.concatenate([found[name] for name in names], 1)


def log_probs_of(
    train_x: np.ndarray, labels: Int[np.ndarray, " n"], test_x: np.ndarray, classes: int
) -> Float[np.ndarray, "t k"]:
    """Standardise, fit, predict; `FLOOR` for classes without a training product."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(train_x, labels)
    found = np.full((len(test_x), classes), FLOOR)
    found[:, model.classes_] = model.predict_log_proba(test_x)
    return found


def rivals(run: TrainedRun, test: Products) -> dict[str, Float[np.ndarray, "N k"]]:
    """Log-probabilities of all products in `test`, by each of the three ways.

    They learn from the products that the run learned from. A product without a readable image gets
    the frequencies of the classes, as everywhere.
    """
    train = Images(run, build_data(data_config(run.config)).train)
    there, classes = Images(run, test), len(run.categories.ids)
    by_image = log_probs_of(train.x, train.labels[train.owner], there.x, classes)
    first = np.flatnonzero(np.diff(there.owner, prepend=-1))
    counts = np.diff(first, append=len(there.owner))[:, None]
    ways = {
        "scikit-learn, images, geometric": log_softmax(
            np.add.reduceat(by_image, first) / counts, axis=1
        ),
    }
    for name, poolings in (("mean", ("mean",)), ("[mean; max]", ("mean", "max"))):
        ways[f"scikit-learn, {name}"] = log_probs_of(
            train.pooled(*poolings), train.labels[train.seen], there.pooled(*poolings), classes
        )
    found = {}
    for name, log_probs in ways.items():
        found[name] = np.tile(np.asarray(run.log_prior, np.float64), (len(test), 1))
        found[name][there.seen] = log_probs
    return found
