"""The pretrained directory: a trained model in three plain files, for other machines.

`model.safetensors` holds all parameters and statistics by their paths, `config.json` what they
mean, and `README.md` is a model card. Nothing in them can run as code. `config.json` has a digest
of each of the others, so that files of two models are not taken for one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import xxhash

from product_mil.config import config_from_dict
from product_mil.config.checks import wrong_values
from product_mil.errors import UserError
from product_mil.files.digests import digest_of
from product_mil.files.formats import refuse_unknown_format
from product_mil.files.outputs import Kind, names_in, refuse_to_replace
from product_mil.files.whole import to_json, whole_directory
from product_mil.model.classifier import Arrays
from product_mil.model.weights.files import read_safetensors
from product_mil.train.checkpoint_parts import MAX_LISTED_LEAVES, leaf_mismatches
from product_mil.version import __version__

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
STABLEHLO_FILE = "model.stablehlo"  # may lie beside the weights, or in their place
FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
_LIBRARY = {"library_name": "product_mil"}  # in config.json, which other libraries write too
_AGAIN = "get the directory again"


class Described(NamedTuple):
    """What `config.json` says of the weights beside it."""

    record: dict[str, Any]  # as a checkpoint has it
    step: int  # of the checkpoint, in its stage
    weights_digest: str


def is_pretrained(directory: Path) -> bool:
    """Whether a directory is meant as a pretrained one, damaged or not, rather than a run's."""
    if (directory / "checkpoints").is_dir():
        return False
    return (directory / WEIGHTS_FILE).exists() or _is_ours(_content(directory / CONFIG_FILE))


def description_in(directory: Path) -> Described:
    """Read what the weights in a pretrained directory mean.

    Raises:
        UserError: `config.json` is missing, damaged, of another library or of a newer format.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file, without which {WEIGHTS_FILE} is no model; {_AGAIN}")
    found = _content(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is no record of a model); {_AGAIN}")
    if not _is_ours(found):
        raise UserError(
            f"{path} was not written by product_mil; name a run, or a directory that "
            "save_pretrained or product-mil export-model wrote"
        )
    known = range(1, FORMAT + 1)
    refuse_unknown_format(found.get("format"), known, found.get("version", "?"), path)
    try:
        fault = _fault(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if fault:
        raise UserError(f"{path} is damaged ({fault}); {_AGAIN}")
    record = {**found["run"], "categories": json.dumps(found["categories"])}
    record["class_counts"] = found["class_counts"]
    return Described(record, found["step"], found["digests"].get(WEIGHTS_FILE, ""))


@dataclass(frozen=True)
class _Categories:
    ids: list[int] | list[str]
    names: list[list[str]]


@dataclass(frozen=True)
class _Run:
    config: dict[str, Any]
    stage: Literal["head", "finetune"]
    data_fingerprint: str
    version: str
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Content:
    """What `config.json` must hold; it may hold more."""

    step: int
    categories: _Categories
    class_counts: list[int]
    digests: dict[str, str]
    run: _Run


def _fault(content: bytes) -> str:
    """What is wrong with the content of `config.json`; empty if it is right.

    Raises:
        UserError: the configuration of the run is of another version.
    """
    from pydantic import TypeAdapter, ValidationError  # a command's --help does without it

    try:
        found = TypeAdapter(_Content).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    ids, names = found.categories.ids, found.categories.names
    if not ids or len(set(ids)) < len(ids) or len({len(path) for path in names}) != 1:
        return "categories: an id twice, or none, or paths of several lengths"
    if not len(ids) == len(names) == len(found.class_counts):
        return "not as many ids as names and class_counts"
    wrong = wrong_values(config_from_dict(found.run.config))
    return wrong[0] if wrong else ""


def read_weights(
    directory: Path, digest: str, parameters: Arrays, statistics: Arrays
) -> tuple[Arrays, Arrays]:
    """The arrays of `model.safetensors`, with the paths, shapes, types and devices of those given.

    Raises:
        UserError: the file is missing, damaged or of another model, or has NaN.
    """
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_AGAIN}, or export it with --format pretrained")
    tensors = read_safetensors(path)
    model = parameters | statistics
    lines = leaf_mismatches(model, tensors)
    lines += [
        f"{name}: {tensors[name].dtype} where the model has {array.dtype}"
        for name, array in model.items()
        if name in tensors and tensors[name].dtype != array.dtype
    ]
    if lines:
        raise UserError(
            f"{path} is not of the model that {CONFIG_FILE} describes: "
            f"{'; '.join(lines[:MAX_LISTED_LEAVES])}; {_AGAIN}"
        )
    refuse_nan(tensors, path)
    if digest_of(path) != digest:
        raise UserError(
            f"{path} is not the file that {directory / CONFIG_FILE} was written with; {_AGAIN}"
        )

    def placed(wanted: Arrays) -> Arrays:
        return {name: jax.device_put(tensors[name], of.sharding) for name, of in wanted.items()}

    return placed(parameters), placed(statistics)


def refuse_nan(arrays: Mapping[str, np.ndarray], place: object) -> None:
    """Refuse weights that would make every answer NaN.

    Raises:
        UserError: an array holds NaN; the message has `place` and the path of the array.
    """
    for name, array in arrays.items():
        if np.isnan(array).any():
            raise UserError(f"{place}: {name} holds NaN: such a model answers nothing; use another")


def description(record: Mapping[str, Any], step: int, **more: Any) -> dict[str, Any]:
    """The content of `config.json` without the digests; `more` is for other programs to read."""
    run = {k: v for k, v in record.items() if k not in ("categories", "class_counts")}
    return {
        **_LIBRARY,
        "format": FORMAT,
        "version": __version__,
        **more,
        "categories": json.loads(record["categories"]),
        "class_counts": record["class_counts"],
        "step": step,
        "run": run,
    }


def write_directory(path: Path, files: Mapping[str, bytes], description: dict[str, Any]) -> None:
    """Write these files and `config.json` into a directory, whole or not at all.

    Raises:
        UserError: the directory cannot be written, or holds anything else than `PRETRAINED`.
    """
    digests = {name: xxhash.xxh3_128_hexdigest(content) for name, content in files.items()}
    config = to_json({**description, "digests": digests}) + "\n"
    try:
        with whole_directory(path, _may_go) as draft:
            for name, content in {**files, CONFIG_FILE: config.encode()}.items():
                (draft / name).write_bytes(content)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from None


def _may_go(path: Path) -> bool:
    """False, so that `path` is replaced, unless it belongs to the user."""
    refuse_to_replace(path, path.lstat().st_mode, PRETRAINED)
    return False


def _is_former(directory: Path) -> bool:
    """Whether the directory holds what was written, and nothing else.

    Raises:
        UserError: a file was changed since, such as the model card.
    """
    found = _content(directory / CONFIG_FILE)
    digests = found.get("digests") if _is_ours(found) else None
    if not isinstance(digests, dict) or names_in(directory) != {CONFIG_FILE, *digests}:
        return False
    for name, digest in digests.items():
        if digest_of(directory / name) != digest:
            raise UserError(
                f"{directory}: its {name} was changed; name a new directory, or move this one away"
            )
    return True


def _is_ours(found: Any) -> bool:
    return isinstance(found, dict) and found.items() >= _LIBRARY.items()


def _content(path: Path) -> Any:
    """The JSON in a file; None where there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


PRETRAINED = Kind("a model", (), _is_former)
