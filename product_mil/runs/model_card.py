"""The model card: a README that says what a model does, how well, and what it is not for."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product_mil.config import STAGES
from product_mil.data.duplicates import MAX_LINKING_PRODUCTS
from product_mil.errors import UserError
from product_mil.model.registry import head
from product_mil.runs.trained import TrainedRun
from product_mil.train.record import VALIDATION
from product_mil.version import __version__

_MAX_NAMES = 12  # categories that the card lists
_PUNCTUATION = re.compile(r"""([!"#$%&()*+\-./:;<=>?@\[\\\]^_`{|}~])""")
_NOT_FOR_PEOPLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@dataclass(frozen=True)
class CardFacts:
    """What a run does not know of itself; None for what is not said."""

    license: str | None = None  # of the weights, as the hub abbreviates it: apache-2.0
    data_description: str | None = None
    data_license: str | None = None
    comparison: Path | None = None  # that product-mil compare wrote, with this model in it


def escaped(text: str) -> str:
    """Text from data, in one line, of which Markdown and HTML read nothing as theirs."""
    return _PUNCTUATION.sub(r"\\\1", _NOT_FOR_PEOPLE.sub(" ", text)).strip()


def model_card(run: TrainedRun, facts: CardFacts, uses: Sequence[str]) -> str:
    """The text of the card of a run's model; `uses` are the ways to use it, in Markdown.

    Raises:
        UserError: the comparison cannot be read.
    """
    model, k = run.config.model, len(run.categories.ids)
    parts = [
        _front_matter(run, facts),
        f"# Product categories from all images of a product: {model.pooling} over "
        f"{model.backbone}\n\nThe model looks at the first {run.config.data.max_images} images of "
        f"a product at most, embeds each with the net `{model.backbone}`, fuses them by the head "
        f"`{model.pooling}` ({head(model.pooling).about}), and gives a probability for each of {k} "
        f"categories. It was written by product_mil {__version__}.",
        "\n\n".join(["## Use", *uses]),
        _categories(run),
        _data(run, facts),
        _metrics(run),
        *([_comparison(facts.comparison)] if facts.comparison else []),
        _limits(run),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(run: TrainedRun, facts: CardFacts) -> str:
    """What the hub reads. Each value is JSON, which YAML reads as it is."""
    model = run.config.model
    values: dict[str, Any] = {} if facts.license is None else {"license": facts.license}
    tags = ["product-classification", "multiple-instance-learning", "jax"]
    values |= {
        "library_name": "product_mil",
        "pipeline_tag": "image-classification",
        "tags": [*tags, model.backbone, model.pooling],
    }
    lines = (f"{name}: {json.dumps(value)}" for name, value in values.items())
    return "\n".join(["---", *lines, "---"])


def _categories(run: TrainedRun) -> str:
    levels = run.categories.levels()
    shown = [" > ".join(dict.fromkeys(path)) for path in run.categories.names[:_MAX_NAMES]]
    more = len(run.categories.ids) - len(shown)
    listed = "\n".join(f"- {escaped(name)}" for name in shown)
    tree = f"a tree of {len(levels)} levels with {' / '.join(map(str, levels))} groups, from the "
    tree += "top down"
    said = "one level" if len(levels) == 1 else tree
    tail = f"\n- and {more} more" if more else ""
    return f"## Categories\n\nThe categories are {said}. `config.json` has all.\n\n{listed}{tail}"


def _data(run: TrainedRun, facts: CardFacts) -> str:
    data, stages = run.config.data, [name for name in STAGES if getattr(run.config, name).epochs]
    drawn = (
        "The sample that product_mil draws: plain shapes on one colour, no photos."
        if not data.train
        else "Not said."
    )
    description = escaped(facts.data_description) if facts.data_description else drawn
    data_license = escaped(facts.data_license) if facts.data_license else "not said"
    split = (
        "Validation products were given apart from the training products."
        if data.valid
        else f"{data.valid_fraction:.0%} of the products were split off for validation. Products "
        "that share an image or an id are on one side of the split (an image in more than "
        f"{MAX_LINKING_PRODUCTS} products links none); products are taken evenly from all "
        f"categories, by hashes of their ids and the seed {run.config.seed}."
    )
    return "\n".join(
        [
            "## Data and training",
            "",
            f"- Data: {description}",
            f"- Licence of the data: {data_license}",
            f"- Training products: {int(run.class_counts.sum())}; fingerprint of the data "
            f"`{run.record['data_fingerprint']}`",
            f"- Split: {split}",
            f"- Images: scaled to {data.image_size_px} x {data.image_size_px} pixels",
            f"- Start: {_start(run)}",
            f"- Stages: {', then '.join(stages) or 'none'}; these weights are of step {run.step} "
            f"of stage {run.stage}. `config.json` has every setting.",
        ]
    )


def _start(run: TrainedRun) -> str:
    weights = run.config.model.weights
    if not weights:
        return "random weights"
    if weights == "imagenet":
        return "published weights, trained on ImageNet"
    return f"the weights {escaped(weights)}"


def _metrics(run: TrainedRun) -> str:
    found: Mapping[str, float] = run.record.get(VALIDATION, {})
    if "top1" not in found:
        return "## Metrics\n\nThis checkpoint was not evaluated."
    rows = [("images of the product", "products", "top-1"), ("---", "---:", "---:")]
    for count in sorted(_counts(found)):
        products, top1 = (found[f"{name}_images_{count}"] for name in ("products", "top1"))
        rows.append((str(count), f"{products:.0f}", f"{top1:.4f}"))
    rows.append(("all", f"{found['products']:.0f}", f"{found['top1']:.4f}"))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    named = {
        "top5": "top-5",
        "mean_class_accuracy": "mean accuracy of the categories",
        "nll": "negative log-likelihood",
        "calibration_error": "calibration error",
    }
    others = "; ".join(f"{about} {found[name]:.4f}" for name, about in named.items())
    temperature = ""
    if run.temperature is not None:
        temperature = (
            f" Confidences are calibrated by the temperature {run.temperature:.3f}, which was "
            "fitted to the same products."
        )
    return (
        "## Metrics\n\nOf the validation products, on which settings may have been chosen: they "
        f"are no test.\n\n{table}\n\nOf all of them: {others}.{temperature}"
    )


def _counts(found: Mapping[str, float]) -> Iterator[int]:
    for name in found:
        if match := re.fullmatch(r"top1_images_(\d+)", name):
            yield int(match[1])


def _comparison(path: Path) -> str:
    """What `product-mil compare` found: its sentence, and both figures."""
    file = path / "comparison.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_bytes())
        rows = [("model", "top-1", "95 % interval"), ("---", "---:", "---:")]
        for name in found["headline"]:
            scores = {**found["runs"], **found["rules"]}[name]
            low, high = scores["accuracy_ci95"]
            figures = f"{scores['accuracy']:.4f}", f"{low:.4f} to {high:.4f}"
            rows.append((escaped(name), *figures))
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return (
            f"## Compared\n\n{escaped(found['verdict'])}\n\nOn {found['n']} products, by "
            f"`product-mil compare` of {escaped(found['date'])}:\n\n{table}"
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no comparison"
        raise UserError(
            f"{file}: cannot be read ({reason}); name the comparison.json of product-mil compare"
        ) from None


def _limits(run: TrainedRun) -> str:
    spec = head(run.config.model.pooling)
    alone = "" if spec.attends else "\n- All images of a product count by a fixed rule."
    return (
        "## Limits\n\n"
        "- It knows its categories alone: a product of another kind gets the nearest one, perhaps "
        "with a high probability.\n"
        "- Confidences keep their promise on products like those of the validation part, not "
        "beyond.\n"
        "- A product without an image that can be read is answered by the frequencies of the "
        "categories in training.\n"
        "- Text, price and brand of a product are not read; labels of the training data may be "
        f"wrong, and the model has learned their mistakes too.{alone}"
    )
