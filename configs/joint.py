"""Pr(Y | x1..xn): all photos of a product, fused by attention.

python -m product_mil.main --config=configs/joint.py             # embedded sample, 2 CPU cores
python -m product_mil.main --config=configs/joint.py:laptop      # your data, ImageNet weights
python -m product_mil.main --config=configs/joint.py:cdiscount   # the paper's recipe, 4 GPUs
python -m product_mil.main --config=configs/joint.py:smoke       # seconds: for tests
"""

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig, choose

SAMPLE = Config(
    name="joint",
    model=ModelConfig(backbone="small_cnn", pooling="gated_attention"),
    # From scratch there is nothing to freeze: one stage trains everything.
    head=StageConfig(epochs=0, trainable="head"),
    finetune=StageConfig(
        epochs=20,
        images_per_batch=128,
        batch_statistics=True,
        learning_rate=3e-3,
        weight_decay=0.05,
        label_smoothing=0.05,
    ),
)

SMOKE = Config(
    name="joint-smoke",
    data=DataConfig(max_products=60, image_size_px=64),
    model=ModelConfig(backbone="small_cnn", pooling="gated_attention", dropout=0.1),
    head=StageConfig(epochs=2, images_per_batch=32, trainable="head"),
    finetune=StageConfig(epochs=2, images_per_batch=32, batch_statistics=True),
)


def get_config(argument: str) -> Config:
    """The configuration for an argument."""
    return choose({"": SAMPLE, "smoke": SMOKE}, argument)
