"""A net of six convolutions from scratch: `configs/cnn_1.py` with another backbone.

    python -m product_mil.main --config=configs/cnn_3.py [:joint or :smoke]

The last two are residuals that start at zero, so that the net begins as that of `cnn_2.py` and
depth cannot hurt from the start; the paper's third, plain net fell to the prior.
"""

import dataclasses
from pathlib import Path

from product_mil.config import Config, load_config


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    first = load_config(f"{Path(__file__).with_name('cnn_1.py')}:{argument}")
    model = dataclasses.replace(first.model, backbone="cnn_3")
    return dataclasses.replace(first, name=first.name.replace("cnn_1", "cnn_3"), model=model)
