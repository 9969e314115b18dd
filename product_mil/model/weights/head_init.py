"""Initial values of the layer that scores categories."""

import csv
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from product_mil.errors import UserError
from product_mil.files.foreign import CLASS_FILE, refuse_foreign
from product_mil.model.classifier import Model
from product_mil.model.weights.load import ImageNetTop
from product_mil.sources.ids import Ids

IMAGENET_CLASSES = 1000
NAMED = ("normal", "zeros", "truncated_normal")
# The layers that score categories; the residual head's correction is not one, and starts at 0.
_KERNEL = re.compile(r"head/(classify|classify_image)/kernel")


def initialise_head(
    model: Model,
    head_init: str,
    category_ids: Ids[np.ndarray, " k"],
    top: ImageNetTop | None,
    seed: int,
) -> tuple[Model, list[str]]:
    """The model with initial values of the head by `head_init`, and lines for the log.

    `normal` leaves the head as it was built (standard deviation 0.01), `truncated_normal` cuts the
    same distribution at two standard deviations, and `zeros` first predicts the uniform
    distribution. Anything else is a CSV file with the columns `category_id,imagenet_class`: its
    categories start from rows of the ImageNet top, and the others stay as built.

    Raises:
        UserError: the file cannot be read or has wrong rows, or the weights have no top.
    """
    kernels = sorted(path for path in model.parameters if _KERNEL.fullmatch(path))
    parameters = dict(model.parameters)
    if head_init == "zeros":
        parameters |= {path: jnp.zeros_like(parameters[path]) for path in kernels}
    elif head_init == "truncated_normal":
        for number, path in enumerate(kernels):
            key = jax.random.fold_in(jax.random.key(seed), number)
            shape = parameters[path].shape
            parameters[path] = 0.01 * jax.random.truncated_normal(key, -2.0, 2.0, shape)
    elif head_init != "normal":
        if top is None:
            raise UserError(
                f"config.model.head_init={head_init}: the weights have no ImageNet top; name the "
                "file with it in config.model.weights, or say imagenet"
            )
        if len(top.bias) != IMAGENET_CLASSES:
            raise UserError(
                f"config.model.head_init={head_init}: the top of the weights has {len(top.bias)} "
                f"classes and ImageNet's {IMAGENET_CLASSES}; name a file with ImageNet's own"
            )
        places, classes = _read_matches(Path(head_init), category_ids)
        for path in kernels:
            bias = path.removesuffix("kernel") + "bias"
            parameters[path] = _with_columns(parameters[path], places, top.kernel[:, classes])
            parameters[bias] = _with_columns(parameters[bias], places, top.bias[classes])
        line = f"head: {len(places)} of {len(category_ids)} categories start from the ImageNet top"
        return Model(model.structure, parameters, model.statistics), [line]
    return Model(model.structure, parameters, model.statistics), []


def _with_columns(value: Array, places: np.ndarray, columns: np.ndarray) -> Array:
    changed = np.array(value)
    changed[..., places] = columns
    return jnp.asarray(changed)


def _read_matches(path: Path, category_ids: Ids[np.ndarray, " k"]) -> tuple[np.ndarray, np.ndarray]:
    """Class indices, and the ImageNet class of each.

    Raises:
        UserError: rows are wrong; the message lists them all by line.
    """
    refuse_foreign(path, CLASS_FILE)
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"config.model.head_init: cannot read {path} ({error})") from error
    where = {str(number): place for place, number in enumerate(category_ids)}
    found: dict[int, int] = {}
    errors = []
    for line, row in enumerate(rows, 2):
        try:
            category, imagenet = row["category_id"].strip(), int(row["imagenet_class"])
        except (KeyError, TypeError, ValueError, AttributeError):
            errors.append(f"line {line}: expected category_id,imagenet_class, such as 7,281")
            continue
        if category not in where:
            errors.append(f"line {line}: no category {category} in this data")
        elif where[category] in found:
            errors.append(f"line {line}: category {category} again")
        elif not 0 <= imagenet < IMAGENET_CLASSES:
            errors.append(
                f"line {line}: imagenet_class {imagenet} is not in 0..{IMAGENET_CLASSES - 1}"
            )
        else:
            found[where[category]] = imagenet
    if errors or not found:
        reason = "; ".join(errors[:10]) or "no rows below the line category_id,imagenet_class"
        raise UserError(f"config.model.head_init: {path}: {reason}")
    return np.array(list(found)), np.array(list(found.values()))
