"""The category tree as a tree of linear classifiers on hand-made features: the cheap system.

    pip install 'product_mil[baselines]'
    python -m product_mil.main --config=configs/tree.py [:smoke]

One classifier a node, a leaf's probability is the product along its path, and a product's the mean
over its images. Features (colour histograms, HOG, texture) are computed once and lie on disk;
training passes over them batch by batch, so memory does not grow with them
(docs/measured/seed_table.md).
"""

import dataclasses

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig, choose

TREE = Config(
    name="tree",
    model=ModelConfig(backbone="hand_made", pooling="tree", dropout=0.5),
    head=StageConfig(
        epochs=-1,
        steps=1000,
        trainable="head",
        images_per_batch=256,
        learning_rate=3e-3,
        weight_decay=1e-3,
    ),
    finetune=StageConfig(epochs=0),
)


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    smoke = dataclasses.replace(
        TREE,
        name="tree-smoke",
        data=DataConfig(max_products=60, image_size_px=64),
        head=dataclasses.replace(TREE.head, epochs=2, images_per_batch=32),
    )
    return choose({"": TREE, "smoke": smoke}, argument)
