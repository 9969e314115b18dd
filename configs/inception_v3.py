"""Two-stage transfer of Inception V3: the head on the frozen body, then more of the net.

    python -m product_mil.main --config=configs/inception_v3.py[:ARGUMENT] --config.data.train=...

Photos are classified one by one and their probabilities averaged, as in the paper.

    (none)            first the head, then all of the net
    :unlocked         first the head, then the net from block mixed_7a up: a third of the work
    :joint            all images of a product fused before they are classified
    :unlocked_joint   both
    :smoke            seconds, from random weights: for tests

ImageNet weights are downloaded once (`config.model.weights=imagenet`), or name a file.
"""

import dataclasses

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig, choose


def two_stages(backbone: str, unlock_from: str) -> dict[str, Config]:
    """The configurations of a pretrained net, by argument."""
    averaged = Config(
        name=backbone,
        data=DataConfig(shards=4),
        model=ModelConfig(
            backbone=backbone, weights="imagenet", pooling="probabilities", dropout=0.5
        ),
        # Each distinct image is embedded once, so that many steps cost seconds.
        head=StageConfig(
            epochs=-1, steps=2000, trainable="head", images_per_batch=256, learning_rate=1e-3
        ),
        # Small, so that the body keeps what it knows; running statistics for the same reason.
        finetune=StageConfig(epochs=3, images_per_batch=64, learning_rate=3e-5),
    )
    unlocked = dataclasses.replace(
        averaged,
        name=f"{backbone}-unlocked",
        finetune=dataclasses.replace(averaged.finetune, trainable=unlock_from),
    )
    smoke = dataclasses.replace(
        unlocked,
        name=f"{backbone}-smoke",
        data=DataConfig(max_products=40, image_size_px=80),
        model=dataclasses.replace(averaged.model, weights=""),
        head=StageConfig(epochs=1, images_per_batch=32, trainable="head"),
        finetune=dataclasses.replace(unlocked.finetune, epochs=1, images_per_batch=32),
    )
    return {
        "": averaged,
        "unlocked": unlocked,
        "joint": _joint(averaged),
        "unlocked_joint": _joint(unlocked),
        "smoke": smoke,
    }


def _joint(config: Config) -> Config:
    model = dataclasses.replace(config.model, pooling="posterior_attention")
    return dataclasses.replace(config, name=f"{config.name}-joint", model=model)


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    return choose(two_stages("inception_v3", "mixed_7a"), argument)
