"""A net of four convolutions from scratch: `configs/cnn_1.py` with another backbone.

python -m product_mil.main --config=configs/cnn_2.py [:joint or :smoke]
"""

import dataclasses
from pathlib import Path

from product_mil.config import AugmentConfig, Config, StageConfig, load_config


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    first = load_config(f"{Path(__file__).with_name('cnn_1.py')}:{argument}")
    # An image that several categories share cannot be distinguished, only memorised: this net and
    # the deeper one do that without reflections and with most of the embedding, and then are right
    # less often. `cnn_1` is too small for it.
    return dataclasses.replace(
        first,
        name=first.name.replace("cnn_1", "cnn_2"),
        model=dataclasses.replace(first.model, backbone="cnn_2", dropout=0.5),
        head=_reflected(first.head),
        finetune=_reflected(first.finetune),
    )


def _reflected(stage: StageConfig) -> StageConfig:
    return dataclasses.replace(stage, augment=AugmentConfig(flip=0.5))
