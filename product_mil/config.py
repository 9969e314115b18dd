"""The configuration: declared once, typed, overridable field by field, refused whole if wrong.

Only `build/`, `main.py` and the files in `configs/` see it; every other room takes plain
arguments. A new field's default is what runs did before there was the field, so that those can
still be opened and resumed.
"""

import dataclasses
import importlib.util
import json
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from product_mil.errors import UserError
from product_mil.files.foreign import CONFIGURATION, refuse_foreign
from product_mil.files.outputs import user_path
from product_mil.files.package import packaged_configurations


@dataclass(frozen=True)
class DataConfig:
    """Which products, how many of their images, and how they are packed."""

    train: str = ""  # BSON file, comma-separated files or a glob; empty: the embedded sample
    valid: str = ""  # the same; empty: split from train
    categories: str = ""  # category_names.csv; empty: the ids in train, one level
    sample_seed: int = 0  # of the embedded sample
    max_products: int = 0  # a random subset of train for a quick look; 0: all
    valid_fraction: float = 0.2
    # How far classes come equally often in training; 0: as they are, 1: equally
    # (docs/measured/imbalance.md).
    balance_power: float = 0.0
    drop_images_md5: tuple[str, ...] = ()  # placeholders such as "no photo yet"
    image_size_px: int = 180
    max_images: int = 4  # of a product; the first ones are used
    shards: int = 4  # S; a multiple of the devices, the same numbers on any of its divisors
    threads: int = 0  # of the loader; 0: one a core
    embedding_cache: bool = True  # embed each distinct image once where the backbone is frozen
    # skip: leave out, count, list in bad_records.csv; fail: stop at the first
    # (docs/guide/bad_input.md)
    bad_records: Literal["skip", "fail"] = "skip"
    bad_images: Literal["skip", "fail"] = "skip"
    bad_categories: Literal["skip", "fail"] = "fail"  # rows of the category file


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and what fuses a product's images."""

    backbone: str = "small_cnn"
    weights: str = (
        ""  # "imagenet", a weights file, or the directory of an earlier run; empty: random
    )
    head_init: str = "normal"  # or zeros, truncated_normal, a CSV category_id,imagenet_class
    pooling: str = "gated_attention"  # the head: one of HEADS in model/registry.py, or registered
    attention_heads: int = 4  # of gated_attention and transformer, as is attention_dim
    attention_dim: int = 128
    layer_norm: bool = False  # of each image's embedding, before the head; without parameters
    dropout: float = 0.0  # of embeddings, in the head
    # Rate at which the last residual branch is left out in training, earlier ones less often; the
    # published efficientnet_v2_s was trained with 0.2, convnext_tiny with 0.1
    stochastic_depth: float = 0.0
    position_embedding: bool = False  # of an image's place within its product
    count_embedding: bool = False  # of the number of a product's images
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a stage's training images; all 0: none (`train/augment.py`)."""

    flip: float = 0.0  # probability of a horizontal reflection
    rotation_deg: float = 0.0  # to either side
    shear_deg: float = 0.0  # to either side
    translation: float = 0.0  # to either side, as a share of the side
    scale: float = 0.0  # 0.2: 1/1.2 to 1.2 times the size
    crop: float = 0.0  # 0.2: a square of 0.8 to 1 of the side fills the image
    colors: float = 0.0  # 0.3: brightness, contrast and saturation, each times 1/1.3 to 1.3
    erasing: float = 0.0  # probability that a rectangle gets the image's mean colour
    border: Literal["edge", "mean"] = "edge"  # what lies beyond the image


@dataclass(frozen=True)
class StageConfig:
    """One of the two stages; its own optimiser, schedule and directory."""

    epochs: int = 0  # 0 skips the stage; -1: whole epochs that reach `steps`, at least `min_epochs`
    steps: int = 0  # only read where epochs is -1, as is min_epochs
    min_epochs: int = 10
    max_steps: int = 0  # the stage, its schedule too, is no longer than this; 0: no bound
    images_per_batch: int = 256  # over all devices
    trainable: str = "all"  # head, all, or a block of the backbone: the head and all from it up
    batch_statistics: bool = False  # normalise by the batch and move the running statistics
    optimizer: Literal["adamw", "nadamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3  # at the end of the warm-up; a cosine to 0 follows
    # Of each block of the backbone to that of the block after it, from the head towards the image
    learning_rate_decay: float = 1.0
    warmup_fraction: float = 0.1  # of the stage's steps
    weight_decay: float = 1e-4  # of kernels
    clip_norm: float = 1.0  # of the whole gradient; 0: none
    label_smoothing: float = 0.0
    # From this share of the stage on, an image's own loss is weighted by its attention, relative to
    # the uniform share; 1: never. Only posterior_attention has both (docs/measured/heads.md)
    attention_weighted_from: float = 1.0
    logit_adjustment: float = 0.0  # tau of Menon et al. 2021; 1: classes count alike; 0: none
    level1_loss: float = 0.0  # weight of the loss of level-1 groups beside that of categories
    level2_loss: float = 0.0
    ema_decay: float = 0.0  # evaluate and keep an average of the parameters; 0: none
    ema_memory: float = 0.0  # the decay that reaches so far back, as a share of the stage; 0: none
    patience_evaluations: int = 0  # stop after so many without a better valid/nll; 0: never
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = "run"  # of the directory under runs/
    seed: int = 0
    checkpoint_every_s: float = 600.0  # besides the one at each evaluation
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: StageConfig = field(default_factory=lambda: StageConfig(trainable="head"))
    finetune: StageConfig = field(default_factory=StageConfig)

    def to_dict(self) -> dict[str, Any]:
        """The plain form that is written beside a run."""
        return dataclasses.asdict(self)


_BARE_NAME = re.compile(r"(?P<name>\w[\w-]*)(:(?P<argument>[\w-]*))?")  # of a packaged one
STAGES = ("head", "finetune")  # of a Config, in the order in which they are trained


def flat(config: Config) -> dict[str, Any]:
    """Every field by its dotted name, `data.train` and so on."""
    return flatten_dict(config.to_dict())


def load_config(spec: str) -> Config:
    """What `get_config(argument)` of a configuration returns.

    `joint` and `joint:laptop` name one that comes with product_mil, `mine.py:fast` a file.

    Raises:
        UserError: no such name or file, no `get_config` in it, or an argument that it refuses.
    """
    if not spec:
        raise UserError("name a configuration: --config=joint, or a file of your own")
    path, argument = _file_and_argument(spec)
    try:
        refuse_foreign(path, CONFIGURATION)
    except UserError as error:
        raise UserError(f"--config={spec}: {error}") from None
    if not path.is_file():
        raise UserError(
            f"--config={spec}: there is no file {path} in {Path.cwd()}; the configurations that "
            f"come with product_mil are {', '.join(packaged_configurations())}"
        )
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--config={spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # beside the file
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"--config={spec}: {path}:{error.lineno}: {error.msg}") from error
    except ImportError as error:
        raise UserError(f"--config={spec}: {path}: {error}") from error
    finally:
        sys.dont_write_bytecode = writes_bytecode
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={spec}: {path} defines no get_config(argument)")
    config = module.get_config(argument)
    if not isinstance(config, Config):
        raise UserError(f"--config={spec}: get_config returned {type(config).__name__}, no Config")
    return config


def _file_and_argument(spec: str) -> tuple[Path, str]:
    """The file of a configuration, and what follows its colon.

    A bare name is one that comes with the package. Any other text is split at the last colon that
    stands after the name of a file; there may be some in the name. Without such a file, at the last
    colon after which no directory is named.
    """
    if bare := _BARE_NAME.fullmatch(spec):
        known = packaged_configurations()
        if bare["name"] not in known:
            raise UserError(
                f"--config={spec}: no configuration of this name comes with product_mil; there are "
                f"{', '.join(known)}. A file of your own ends in .py"
            )
        return known[bare["name"]], bare["argument"] or ""
    colons = [at for at in range(len(spec), -1, -1) if spec[at : at + 1] in (":", "")]
    # `Path.is_file` raises where a name is too long.
    names = [at for at in colons if os.path.isfile(spec[:at])]  # noqa: PTH113
    missing = [at for at in colons[1:] if "/" not in spec[at:]] or colons
    at = (names or missing)[0]
    return Path(spec[:at]), spec[at + 1 :]


def choose(arguments: dict[str, Config], argument: str) -> Config:
    """The configuration that a config file offers under `argument`, or one line with the others."""
    if argument not in arguments:
        known = ", ".join(f"':{name}'" if name else "none" for name in arguments)
        raise UserError(f"unknown config argument ':{argument}'; there are {known}")
    return arguments[argument]


def override(config: Config, assignments: Sequence[tuple[str, str]]) -> tuple[Config, list[str]]:
    """Apply `("data.train", "x.bson")` pairs in order.

    Returns the new configuration and a message for each assignment that is wrong, so that
    `main` can show all of them at once.
    """
    known = flat(config)
    errors: list[str] = []
    for name, text in _of_each_stage(assignments):
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join('config.' + n for n in near)}?" if near else ""
            errors.append(f"config.{name}: there is no such field{hint}")
            continue
        try:
            config = _replaced(config, name.split("."), text)
        except ValueError as error:
            errors.append(f"config.{name}={text}: {error}")
    return config, errors


def _of_each_stage(assignments: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """`augment.flip` stands for that of both stages."""
    for name, text in assignments:
        stages = STAGES if name.startswith("augment.") else ()
        yield from [(f"{stage}.{name}", text) for stage in stages] or [(name, text)]


def _replaced(node: Any, path: list[str], text: str) -> Any:
    name, *rest = path
    if rest:
        value: Any = _replaced(getattr(node, name), rest, text)
    else:
        value = _parse(text, get_type_hints(type(node))[name])
    return dataclasses.replace(node, **{name: value})


def _parse(text: str, kind: Any) -> Any:
    """`text` as a value of the annotated type, or ValueError with what was expected."""
    origin = get_origin(kind)
    if origin is Literal:
        if text not in get_args(kind):
            raise ValueError(f"expected one of {', '.join(get_args(kind))}")
        return text
    if origin is tuple:
        inner = get_args(kind)[0]
        return tuple(_parse(part.strip(), inner) for part in text.split(",") if part.strip())
    if origin in (Union, types.UnionType):
        raise ValueError(f"cannot be set on the command line ({kind})")
    if kind is bool:
        values = {"true": True, "false": False, "1": True, "0": False}
        if text.lower() not in values:
            raise ValueError("expected true or false")
        return values[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"expected {wanted}") from None
    # The shell leaves ~ alone after a =.
    return str(user_path(text)) if text.startswith("~") else text


def refuse(errors: Sequence[str]) -> None:
    """One screen with every error, if there is any."""
    if errors:
        lines = "\n".join(f"  {error}" for error in errors)
        raise UserError(f"the configuration has {len(errors)} error(s):\n{lines}")


def differences(stored: dict[str, Any], config: Config) -> list[str]:
    """The fields in which a run's stored configuration differs from `config`, a line each.

    What changes no number (the number of loader threads, how often to save) may differ. A field
    younger than the run has its default there.
    """
    free = {"data.threads", "checkpoint_every_s", "name"}
    there = flatten_dict(json.loads(json.dumps(Config().to_dict())))
    there |= flatten_dict(_with_augmentation_by_stage(stored))
    here = flatten_dict(json.loads(json.dumps(config.to_dict())))
    return [
        f"config.{key}: the run has {there.get(key)!r}, you ask for {here.get(key)!r}"
        for key in sorted(there.keys() | here.keys())
        if key not in free and there.get(key) != here.get(key)
    ]


def flatten_dict(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            result |= flatten_dict(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def config_from_dict(stored: dict[str, Any]) -> Config:
    """The configuration that a run's directory holds; younger fields have their defaults.

    Raises:
        UserError: fields that this version does not know, or no configuration at all.
    """
    beside = ("format", "version")  # what config.json says of itself
    try:
        parts = _with_augmentation_by_stage(stored)
        for name in beside:
            parts.pop(name, None)
        for name, kind in {"data": DataConfig, "model": ModelConfig}.items():
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored[name].items()}
            parts[name] = kind(**values)
        for name in STAGES:
            values = parts.get(name, {})
            augment = AugmentConfig(**values.get("augment", {}))
            parts[name] = StageConfig(**{**values, "augment": augment})
        return Config(**parts)
    except (TypeError, KeyError) as error:
        raise UserError(f"the run's config.json is of another version ({error})") from error


def _with_augmentation_by_stage(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration in today's form: older ones had one augmentation for both stages."""
    found = dict(stored)
    both = found.pop("augment", None)
    if both is not None:
        for stage in STAGES:
            found[stage] = {"augment": both, **found.get(stage, {})}
    return found
