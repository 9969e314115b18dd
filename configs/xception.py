"""Two-stage transfer of Xception: `configs/inception_v3.py` with another backbone.

    python -m product_mil.main --config=configs/xception.py[:ARGUMENT] --config.data.train=...

The arguments are the same; `:unlocked` trains from blocks/11 up, the net's exit flow.
"""

import dataclasses
from pathlib import Path

from product_mil.config import Config, load_config


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    other = load_config(f"{Path(__file__).with_name('inception_v3.py')}:{argument}")
    finetune = other.finetune
    if finetune.trainable != "all":
        finetune = dataclasses.replace(finetune, trainable="blocks/11")
    return dataclasses.replace(
        other,
        name=other.name.replace("inception_v3", "xception"),
        model=dataclasses.replace(other.model, backbone="xception"),
        finetune=finetune,
    )
