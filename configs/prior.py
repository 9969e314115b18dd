"""The class frequencies of the training part, whatever the images show: the floor of any table.

    python -m product_mil.main --config=configs/prior.py [:smoke]

No image is read. One is added to each count, so that no category is impossible.
"""

import dataclasses

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig, choose

PRIOR = Config(
    name="prior",
    model=ModelConfig(backbone="none", pooling="prior"),
    head=StageConfig(epochs=0, trainable="head"),
    finetune=StageConfig(epochs=0),
)


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    smoke = dataclasses.replace(PRIOR, name="prior-smoke", data=DataConfig(max_products=60))
    return choose({"": PRIOR, "smoke": smoke}, argument)
