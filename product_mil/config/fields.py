"""Every field of a configuration: its type, its default, its bounds and what it means.

This is the only declaration. Values are checked against it (`checks.py`), overrides are parsed by
it (`overrides.py`), and the documented table and the JSON schema are made from it (`table.py`).

A new field's default is what runs did before there was the field, so that those can still be
opened and resumed.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from product_mil.config.start import Start, start_of

MAX_SEED = 2**63 - 1  # JAX takes no larger one


def setting(default: Any, about: str, **bounds: int | float) -> Any:
    """A field with its default and a sentence about it.

    The bounds are named as in pydantic: `ge` at least, `gt` above, `le` at most, `lt` below.
    """
    return field(default=default, metadata={"description": about, **bounds})


@dataclass(frozen=True)
class DataConfig:
    """Which products, how many of their images, and how they are packed."""

    train: str = setting(
        "",
        "A BSON file, a folder of images, a table, or the address of a MongoDB collection; several "
        "with commas, or a glob; empty: the embedded sample (docs/guide/own-data.md).",
    )
    valid: str = setting("", "The same for validation; empty: a part of `train` is split off.")
    categories: str = setting(
        "", "category_names.csv with the tree; empty: one level, of the category ids in `train`."
    )
    sample_seed: int = setting(0, "Seed of the embedded sample.", ge=0, le=MAX_SEED)
    max_products: int = setting(
        0, "A random subset of so many training products, for a quick look; 0: all.", ge=0
    )
    valid_fraction: float = setting(
        0.2, "Share of `train` that is split off where `valid` is empty.", gt=0, lt=1
    )
    balance_power: float = setting(
        0.0,
        "How far classes come equally often in training; 0: as they are, 1: equally "
        "(docs/measured/imbalance.md).",
        ge=0,
        le=1,
    )
    drop_images_md5: tuple[str, ...] = setting(
        (), "MD5 digests of images that are left out, such as placeholders for a missing image."
    )
    image_size_px: int = setting(
        180, "Side of the square to which each image is scaled.", ge=32, le=2048
    )
    max_images: int = setting(4, "The first so many images of a product are used.", ge=1)
    shards: int = setting(
        4,
        "Parts of a batch. A multiple of the number of devices; any number of devices that divides "
        "it computes the same.",
        ge=1,
    )
    threads: int = setting(0, "Threads that decode images; 0: one for each core.", ge=0)
    embedding_cache: bool = setting(
        True, "Embed each distinct image only once where the backbone is frozen."
    )
    bad_records: Literal["skip", "fail"] = setting(
        "skip",
        "What happens to damaged records. skip: they are left out, counted and listed in "
        "bad_records.csv; fail: the first one ends the run (docs/guide/bad_input.md).",
    )
    bad_images: Literal["skip", "fail"] = setting(
        "skip", "The same for images that cannot be read."
    )
    bad_categories: Literal["skip", "fail"] = setting(
        "fail", "The same for wrong rows of the category file."
    )


@dataclass(frozen=True)
class ModelConfig:
    """The backbone, and the head that fuses a product's images."""

    backbone: str = setting(
        "small_cnn", "The net that embeds each image (docs/guide/adding-a-backbone.md)."
    )
    weights: str = setting(
        "",
        "What the net starts from: imagenet, a weights file, or the directory of an earlier run; "
        "empty: random numbers.",
    )
    head_init: str = setting(
        "normal",
        "First values of the head: normal, zeros, truncated_normal, or a CSV file with the columns "
        "category_id,imagenet_class.",
    )
    pooling: str = setting(
        "gated_attention",
        "The head: probabilities, mean, max, gated_attention, transformer, residual, "
        "posterior_attention, tree, prior, or one of your own (docs/guide/adding-a-head.md).",
    )
    attention_heads: int = setting(
        4, "Slices of the embedding that gated_attention and transformer weigh each on its own.",
        ge=1,
    )  # fmt: skip
    attention_dim: int = setting(
        128, "Width of the layer that scores images in gated_attention and transformer.", ge=1
    )
    layer_norm: bool = setting(
        False, "Normalise each image's embedding before the head reads it; without parameters."
    )
    dropout: float = setting(0.0, "Dropout of embeddings in the head.", ge=0, lt=1)
    stochastic_depth: float = setting(
        0.0,
        "How often the last residual branch is left out in training, earlier ones less often. The "
        "published efficientnet_v2_s was trained with 0.2, convnext_tiny with 0.1.",
        ge=0,
        lt=1,
    )
    position_embedding: bool = setting(
        False,
        "Learn an embedding of an image's place within its product; not for probabilities, tree "
        "and prior.",
    )
    count_embedding: bool = setting(
        False,
        "Learn an embedding of the number of a product's images; not for probabilities, tree and "
        "prior.",
    )
    compute_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "Number format of the backbone's arithmetic."
    )

    @property
    def start(self) -> Start:
        """What `weights` means; a directory is an earlier run, any other path a file."""
        return start_of(self.weights)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a stage's training images; all 0: none (docs/guide/augmentation.md)."""

    flip: float = setting(0.0, "Probability of a horizontal reflection.", ge=0, le=1)
    rotation_deg: float = setting(0.0, "Rotation by so many degrees to either side.", ge=0, le=180)
    shear_deg: float = setting(0.0, "Shear by so many degrees to either side.", ge=0, le=60)
    translation: float = setting(
        0.0, "Shift along both axes to either side, as a share of the image's side.", ge=0, le=0.5
    )
    scale: float = setting(0.0, "0.2: from 1/1.2 to 1.2 times the size.", ge=0, le=1)
    crop: float = setting(
        0.0, "0.2: a square of 0.8 to 1 of the side, anywhere, fills the image.", ge=0, le=0.9
    )
    colors: float = setting(
        0.0, "0.3: brightness, contrast and saturation, each times 1/1.3 to 1.3.", ge=0, le=1
    )
    erasing: float = setting(
        0.0, "Probability that a rectangle gets the image's mean colour.", ge=0, le=1
    )
    border: Literal["edge", "mean"] = setting(
        "edge", "What lies beyond the image: its outermost pixels, or its mean colour."
    )


@dataclass(frozen=True)
class StageConfig:
    """One of the two stages, with its own optimiser, schedule and directory."""

    epochs: int = setting(
        0,
        "Passes over the training products. 0 skips the stage; -1: as many whole ones as reach "
        "`steps`, and at least `min_epochs`.",
        ge=-1,
    )
    steps: int = setting(0, "Steps to reach where `epochs` is -1.", ge=0)
    min_epochs: int = setting(10, "Least number of epochs where `epochs` is -1.", ge=1)
    max_steps: int = setting(
        0, "The stage, with its schedule, is no longer than this; 0: no bound.", ge=0
    )
    images_per_batch: int = setting(
        256, "Image slots of a batch, over all devices; a multiple of `data.shards`.", ge=1
    )
    trainable: str = setting(
        "all", "What is trained: head, all, or a block of the backbone with all that follows it."
    )
    batch_statistics: bool = setting(
        False, "Normalise by the batch's own statistics, and move the running ones."
    )
    optimizer: Literal["adamw", "nadamw", "sgd"] = setting("adamw", "Rule of the steps.")
    learning_rate: float = setting(
        1e-3, "The rate at the end of the warm-up; it falls to 0 along a cosine.", gt=0
    )
    learning_rate_decay: float = setting(
        1.0,
        "Rate of each block of the backbone relative to that of the block after it, from the head "
        "towards the image.",
        gt=0,
        le=1,
    )
    warmup_fraction: float = setting(
        0.1, "Share of the stage's steps in which the rate rises from 0.", ge=0, lt=1
    )
    weight_decay: float = setting(1e-4, "Weight decay of kernels.", ge=0)
    clip_norm: float = setting(1.0, "Largest norm of the whole gradient; 0: no bound.", ge=0)
    label_smoothing: float = setting(
        0.0, "Share of the target that is spread over all categories.", ge=0, lt=1
    )
    attention_weighted_from: float = setting(
        1.0,
        "From this share of the stage on, an image's own loss is weighted by its attention, "
        "relative to the uniform share; 1: never. It acts in heads that have both, such as "
        "posterior_attention (docs/measured/heads.md).",
        ge=0,
        le=1,
    )
    logit_adjustment: float = setting(
        0.0, "Tau of Menon et al. 2021. 1: all categories count alike; 0: as often as they are.",
        ge=0,
    )  # fmt: skip
    level1_loss: float = setting(
        0.0, "Weight of the loss of level-1 groups beside that of categories; 0: none.", ge=0
    )
    level2_loss: float = setting(0.0, "The same for level-2 groups.", ge=0)
    level3_loss: float = setting(0.0, "The same for level-3 groups, of a deeper tree.", ge=0)
    level4_loss: float = setting(0.0, "The same for level-4 groups.", ge=0)
    level5_loss: float = setting(0.0, "The same for level-5 groups.", ge=0)
    ema_decay: float = setting(
        0.0, "Evaluate and keep an average of the parameters with this decay; 0: none.", ge=0, lt=1
    )
    ema_memory: float = setting(
        0.0, "The same, with the decay that reaches back over this share of the stage.", ge=0, le=1
    )
    patience_evaluations: int = setting(
        0, "Stop after so many evaluations without a better valid/nll; 0: never.", ge=0
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def level_losses(self) -> tuple[float, ...]:
        """The weights of the losses of groups, from level 1 down."""
        return (
            self.level1_loss,
            self.level2_loss,
            self.level3_loss,
            self.level4_loss,
            self.level5_loss,
        )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = setting("run", "Name of the run's directory under runs/.")
    seed: int = setting(0, "Seed of all that is random in the run.", ge=0, le=MAX_SEED)
    checkpoint_every_s: float = setting(
        600.0, "Seconds between checkpoints, besides the one at each evaluation.", gt=0
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: StageConfig = field(default_factory=lambda: StageConfig(trainable="head"))
    finetune: StageConfig = field(default_factory=StageConfig)

    def to_dict(self) -> dict[str, Any]:
        """The plain form that is written beside a run."""
        return dataclasses.asdict(self)


STAGES = ("head", "finetune")  # of a Config, in the order in which they are trained
