"""What is wrong with a configuration, before anything is read."""

from pathlib import Path

import jax

from product_mil.config import Config, ModelConfig
from product_mil.config.start import FromFile, Published, Random
from product_mil.errors import UserError
from product_mil.files.foreign import CATEGORY_FILE, refuse_foreign
from product_mil.model.heads.spec import OWN_SETTINGS, HeadSpec
from product_mil.model.prior import NO_BACKBONE
from product_mil.model.registry import BACKBONES, HEADS, BackboneSpec, backbone, blocks_of, head
from product_mil.model.weights.head_init import NAMED
from product_mil.runs.embed import augments, backbone_stays_frozen
from product_mil.sources.opening import source_files
from product_mil.train.state import WHOLE_PARTS


def check_config(config: Config) -> list[str]:
    """What is wrong with a configuration's names and on these devices, a line each.

    Values are `config.problems`.
    """
    return check_names(config) + check_devices(config)


def check_devices(config: Config) -> list[str]:
    """What is wrong with shards on these devices and with names of blocks. This starts JAX."""
    found = []
    devices = jax.device_count()
    if config.data.shards % devices:
        found.append(
            f"config.data.shards={config.data.shards}: must be a multiple of the {devices} devices"
        )
    if config.model.backbone in BACKBONES:
        found += _trainable_problems(config, backbone(config.model.backbone))
    return found


def check_names(config: Config) -> list[str]:
    """What is wrong with all other names, a line each. This does not start JAX."""
    found: list[str] = []
    for name, spec in (("train", config.data.train), ("valid", config.data.valid)):
        try:
            if spec:
                source_files(spec)
        except UserError as error:
            found.append(f"config.data.{name}: {error}")
    found += _category_file_problems(config.data.categories)
    start = config.model.start
    if isinstance(start, FromFile) and not start.path.exists():
        found.append(
            f"config.model.weights: {start.path}: no such file or directory; or say imagenet"
        )
    found += _head_init_problems(config)
    known = []
    for name, look_up in (("pooling", head), ("backbone", backbone)):
        try:
            known.append(look_up(getattr(config.model, name)))
        except UserError as error:
            found.append(f"config.model.{name}: {error}")
    if len(known) < 2:
        return found
    fusion, spec = known
    found += _own_setting_problems(config, fusion, spec.embedding_dim)
    found += _epoch_problems(config, fusion)
    if config.data.image_size_px < spec.min_image_size_px:
        found.append(
            f"config.data.image_size_px={config.data.image_size_px}: {spec.name} takes images "
            f"from {spec.min_image_size_px} px"
        )
    found += _stochastic_depth_problems(config, spec)
    return found + _baseline_problems(config, fusion, on_host=spec.on_host is not None)


def _own_setting_problems(config: Config, fusion: HeadSpec, dim: int) -> list[str]:
    """Settings that the head does not have, or that do not fit the net, a line each.

    A setting that stands at its default is not set.
    """
    found = []
    for name in OWN_SETTINGS:
        value, default = getattr(config.model, name), getattr(ModelConfig(), name)
        if name not in fusion.settings and value != default:
            able = ", ".join(other for other, of in HEADS.items() if name in of.settings)
            found.append(
                f"config.model.{name}={value}: {fusion.name} has no such setting, it belongs to "
                f"{able}; leave it at {default}"
            )
    heads = config.model.attention_heads
    if "attention_heads" in fusion.settings and heads >= 1 and dim % heads:
        found.append(
            f"config.model.attention_heads={heads}: does not divide the {dim} channels of "
            f"{config.model.backbone}"
        )
    return found


def _epoch_problems(config: Config, fusion: HeadSpec) -> list[str]:
    """Nothing to train, or training of what is counted, in a line."""
    untrained = config.head.epochs == 0 and config.finetune.epochs == 0
    if fusion.is_counted and not untrained:
        return [
            f"config.model.pooling={fusion.name}: is counted, not trained; set both epochs to 0"
        ]
    if untrained and not fusion.is_counted:
        return ["config.head.epochs=0 and config.finetune.epochs=0: nothing to train"]
    return []


def _head_init_problems(config: Config) -> list[str]:
    """A file of first values that is not there or does not fit, a line each."""
    head_init = config.model.head_init
    if head_init in NAMED:
        return []
    found, start = [], config.model.start
    if not Path(head_init).is_file():
        found.append(f"config.model.head_init: {head_init}: no such file, nor {', '.join(NAMED)}")
    if not isinstance(start, Published | FromFile):
        found.append(
            f"config.model.head_init={head_init}: needs the ImageNet top of "
            "config.model.weights=imagenet or of a file"
        )
    if config.model.layer_norm:
        found.append(
            f"config.model.head_init={head_init}: the ImageNet top reads embeddings as they "
            "are; set config.model.layer_norm=false"
        )
    return found


def _category_file_problems(path: str) -> list[str]:
    """That it is not there, or of another kind by its first bytes, in a line."""
    try:
        if path:
            refuse_foreign(Path(path), CATEGORY_FILE)
    except UserError as error:
        return [f"config.data.categories: {error}"]
    there = not path or Path(path).exists()
    return [] if there else [f"config.data.categories: {path}: no such file"]


def _trainable_problems(config: Config, spec: BackboneSpec) -> list[str]:
    """Stages that name a block which the backbone does not have, a line each."""
    found: list[str] = []
    for name, stage in (("head", config.head), ("finetune", config.finetune)):
        if stage.epochs and stage.trainable not in WHOLE_PARTS:
            blocks = blocks_of(spec)
            if stage.trainable not in blocks:
                found.append(
                    f"config.{name}.trainable={stage.trainable}: expected head, all or a block "
                    f"of {spec.name}: {', '.join(blocks)}"
                )
    return found


def _stochastic_depth_problems(config: Config, spec: BackboneSpec) -> list[str]:
    """A rate that would change nothing, in a line."""
    rate = config.model.stochastic_depth
    if rate and not spec.has_stochastic_depth:
        able = " and ".join(name for name, of in BACKBONES.items() if of.has_stochastic_depth)
        return [
            f"config.model.stochastic_depth={rate}: {spec.name} has none, {able} do; set it to 0"
        ]
    if rate and backbone_stays_frozen(config):
        return [
            f"config.model.stochastic_depth={rate}: is for training the backbone, which no stage "
            "does here; set it to 0"
        ]
    return []


def _baseline_problems(config: Config, fusion: HeadSpec, *, on_host: bool) -> list[str]:
    """What the systems that are no nets cannot do, a line each."""
    model, found = config.model, []
    if fusion.is_counted != (model.backbone == NO_BACKBONE):
        found.append(
            f"config.model.pooling={model.pooling} with config.model.backbone={model.backbone}: "
            f"prior and {NO_BACKBONE} go together, and with nothing else"
        )
    if on_host and (config.finetune.epochs or not config.data.embedding_cache):
        found.append(
            f"config.model.backbone={model.backbone}: has nothing to finetune and lives in the "
            "cache; set config.finetune.epochs=0 and config.data.embedding_cache=true"
        )
    stages = (config.head, config.finetune)
    if on_host and any(augments(stage) for stage in stages):
        found.append(f"config.model.backbone={model.backbone}: takes no augmentation")
    if not isinstance(model.start, Random) and (on_host or not fusion.takes_weights):
        found.append(f"config.model.weights={model.weights}: a {model.pooling} takes none")
    return found
