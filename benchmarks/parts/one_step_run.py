"""A run of one step with a net that learns, so that no side reads a cache, and drawn products."""

import dataclasses
from pathlib import Path

import bson

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.runs.run import run
from product_mil.sources.sample.draw import draw_catalogue


def one_step_run(root: Path, *, num_products: int, size_px: int) -> list[list[bytes]]:
    """Make `root/run` and `root/drawn/products.bson`; the images of each drawn product."""
    stage = StageConfig(epochs=1, max_steps=1, images_per_batch=16)
    config = Config(
        data=DataConfig(image_size_px=size_px, max_products=100),
        model=ModelConfig("efficientnet_lite0", "imagenet", pooling="posterior_attention"),
        head=dataclasses.replace(stage, epochs=0, trainable="head"),
        finetune=dataclasses.replace(stage, trainable="blocks/15"),
    )
    draw_catalogue(root / "drawn", seed=1, num_products=num_products)
    run(config, root / "run")
    records = bson.decode_all((root / "drawn" / "products.bson").read_bytes())
    return [[image["picture"] for image in record["imgs"]] for record in records]
