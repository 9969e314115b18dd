"""A net of two convolutions from scratch: the first of three systems of growing depth.

    python -m product_mil.main --config=configs/cnn_1.py [:joint or :smoke]

Photos are classified one by one and their probabilities averaged, as in the paper; `:joint` fuses
them first. `cnn_2.py` differs in the backbone, dropout and reflections, `cnn_3.py` from that one in
the backbone alone.
"""

import dataclasses

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig, choose


def from_scratch(backbone: str) -> dict[str, Config]:
    """The configurations of a net that starts from random weights, by argument."""
    averaged = Config(
        name=backbone,
        model=ModelConfig(backbone=backbone, pooling="probabilities", dropout=0.2),
        # From scratch there is nothing to freeze: one stage trains everything.
        head=StageConfig(epochs=0, trainable="head"),
        finetune=StageConfig(
            epochs=14,
            images_per_batch=128,
            batch_statistics=True,
            learning_rate=3e-3,
            weight_decay=0.05,
        ),
    )
    joint = dataclasses.replace(
        averaged,
        name=f"{backbone}-joint",
        model=dataclasses.replace(averaged.model, pooling="max"),
    )
    smoke = dataclasses.replace(
        averaged,
        name=f"{backbone}-smoke",
        data=DataConfig(max_products=60, image_size_px=64),
        finetune=dataclasses.replace(averaged.finetune, epochs=2, images_per_batch=32),
    )
    return {"": averaged, "joint": joint, "smoke": smoke}


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    return choose(from_scratch("cnn_1"), argument)
