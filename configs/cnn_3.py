"""A net of six convolutions from scratch: `configs/cnn_2.py` with another backbone.

    python -m product_mil.main --config=configs/cnn_3.py [:joint or :smoke]

The last two are residuals that start at zero, so that the net begins as that of `cnn_2.py` and
depth cannot hurt from the start; the paper's third, plain net fell to the prior.
"""

import dataclasses
from pathlib import Path

from product_mil.config import Config, load_config


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    second = load_config(f"{Path(__file__).with_name('cnn_2.py')}:{argument}")
    model = dataclasses.replace(second.model, backbone="cnn_3")
    return dataclasses.replace(second, name=second.name.replace("cnn_2", "cnn_3"), model=model)
