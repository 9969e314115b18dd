"""Which values the fields of a configuration may have."""

from product_mil.config import Config, flat

# Beyond these nothing of an image may be left.
AUGMENT_LIMITS = {
    "flip": 1.0,
    "rotation_deg": 180.0,
    "shear_deg": 60.0,
    "translation": 0.5,
    "scale": 1.0,
    "crop": 0.9,
    "colors": 1.0,
    "erasing": 1.0,
}


def problems(config: Config) -> list[str]:
    """Everything that is wrong with the values themselves, a line each."""
    found: list[str] = []

    def need(condition: bool, name: str, message: str) -> None:
        if not condition:
            found.append(f"config.{name}={flat(config)[name]}: {message}")

    data, model = config.data, config.model
    need(0 < data.valid_fraction < 1, "data.valid_fraction", "must lie between 0 and 1")
    need(0 <= data.balance_power <= 1, "data.balance_power", "must be from 0 to 1")
    need(data.shards >= 1, "data.shards", "must be at least 1")
    need(data.max_images >= 1, "data.max_images", "must be at least 1")
    need(data.max_products >= 0, "data.max_products", "must not be negative (0: all)")
    need(32 <= data.image_size_px <= 2048, "data.image_size_px", "must be from 32 to 2048")
    need(data.threads >= 0, "data.threads", "must not be negative (0: one a core)")
    need(data.sample_seed >= 0, "data.sample_seed", "must not be negative")
    need(config.seed >= 0, "seed", "must not be negative")
    need(0 <= model.dropout < 1, "model.dropout", "must be at least 0 and below 1")
    need(
        0 <= model.stochastic_depth < 1,
        "model.stochastic_depth",
        "must be at least 0 and below 1",
    )
    need(model.attention_heads >= 1, "model.attention_heads", "must be at least 1")
    need(model.attention_dim >= 1, "model.attention_dim", "must be at least 1")
    need(config.checkpoint_every_s > 0, "checkpoint_every_s", "must be above 0")
    for name, stage in (("head", config.head), ("finetune", config.finetune)):
        need(stage.epochs >= -1, f"{name}.epochs", "must be -1 (by steps), 0 (skip) or more")
        need(
            stage.epochs != -1 or stage.steps > 0, f"{name}.steps", "epochs=-1 needs steps above 0"
        )
        need(stage.min_epochs >= 1, f"{name}.min_epochs", "must be at least 1")
        need(stage.max_steps >= 0, f"{name}.max_steps", "must not be negative (0: no bound)")
        need(stage.learning_rate > 0, f"{name}.learning_rate", "must be above 0")
        decay = stage.learning_rate_decay
        need(0 < decay <= 1, f"{name}.learning_rate_decay", "must be above 0, and 1 at most")
        need(0 <= stage.warmup_fraction < 1, f"{name}.warmup_fraction", "must be in [0, 1)")
        need(stage.weight_decay >= 0, f"{name}.weight_decay", "must not be negative")
        need(stage.clip_norm >= 0, f"{name}.clip_norm", "must not be negative (0: none)")
        need(0 <= stage.label_smoothing < 1, f"{name}.label_smoothing", "must be in [0, 1)")
        share = stage.attention_weighted_from
        need(0 <= share <= 1, f"{name}.attention_weighted_from", "must be from 0 to 1 (never)")
        for field_name in ("logit_adjustment", "level1_loss", "level2_loss"):
            value = getattr(stage, field_name)
            need(value >= 0, f"{name}.{field_name}", "must not be negative (0: none)")
        need(0 <= stage.ema_decay < 1, f"{name}.ema_decay", "must be in [0, 1)")
        need(0 <= stage.ema_memory <= 1, f"{name}.ema_memory", "must be from 0 to 1")
        need(
            not (stage.ema_decay and stage.ema_memory),
            f"{name}.ema_memory",
            f"sets the decay, as does {name}.ema_decay={stage.ema_decay}; set one of them to 0",
        )
        need(stage.patience_evaluations >= 0, f"{name}.patience_evaluations", "must be 0 or more")
        for field_name, below in AUGMENT_LIMITS.items():
            value = getattr(stage.augment, field_name)
            need(
                0 <= value <= below, f"{name}.augment.{field_name}", f"must be from 0 to {below:g}"
            )
        need(
            stage.trainable == "all" or not stage.batch_statistics,
            f"{name}.batch_statistics",
            "what is frozen keeps its statistics; set trainable=all or batch_statistics=false",
        )
        slots = stage.images_per_batch // max(data.shards, 1)
        need(
            stage.images_per_batch % max(data.shards, 1) == 0 and slots >= data.max_images,
            f"{name}.images_per_batch",
            f"must be a multiple of data.shards={data.shards} and hold data.max_images="
            f"{data.max_images} in each shard",
        )
    return found
