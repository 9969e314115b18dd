"""The rival of configs/joint.py: classify each image, then average the probabilities.

    python -m product_mil.main --config=configs/averaged.py[:ARGUMENT, as of configs/joint.py]

It differs from the joint run in one field, so that a comparison of the two is fair.
"""

import dataclasses
from pathlib import Path

from product_mil.config import Config, load_config


def get_config(argument: str) -> Config:
    """The joint configuration for an argument, with the averaging head."""
    joint = load_config(f"{Path(__file__).with_name('joint.py')}:{argument}")
    model = dataclasses.replace(joint.model, pooling="probabilities")
    return dataclasses.replace(joint, name=joint.name.replace("joint", "averaged"), model=model)
