"""Pr(Y | x1..xn): all photos of a product, fused before they are classified.

python -m product_mil.main --config=configs/joint.py             # embedded sample, 2 CPU cores
python -m product_mil.main --config=configs/joint.py:laptop      # your data, ImageNet weights
python -m product_mil.main --config=configs/joint.py:cdiscount   # the paper's recipe, 4 GPUs
python -m product_mil.main --config=configs/joint.py:smoke       # seconds: for tests
"""

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig, choose

# On clean drawings learned from scratch the elementwise maximum finds "shown on any photo" sooner
# than attention does: 0.95 against 0.87 top-1 after the same steps.
SAMPLE = Config(
    name="joint",
    model=ModelConfig(backbone="small_cnn", pooling="max", dropout=0.5),
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

# Hardware that everybody has: the backbone stays frozen, so each image is embedded once.
LAPTOP = Config(
    name="joint-laptop",
    data=DataConfig(shards=4),
    model=ModelConfig(backbone="mobilenet_v2", weights="imagenet", pooling="residual", dropout=0.5),
    head=StageConfig(
        epochs=-1,
        steps=2000,
        trainable="head",
        images_per_batch=256,
        learning_rate=1e-3,
        weight_decay=1e-4,
    ),
    finetune=StageConfig(
        epochs=0, images_per_batch=64, learning_rate=1e-4, weight_decay=1e-4, clip_norm=1.0
    ),
)

# The paper's recipe: Inception V3 at 180 px in two stages, on four GPUs in bfloat16.
CDISCOUNT = Config(
    name="joint-cdiscount",
    data=DataConfig(
        shards=8,
        valid_fraction=0.02,  # 140,000 products: a standard error of 0.1 points
        drop_images_md5=(
            "d704b9555801285eedb04213a02fdc41",
            "35e7e038fe2ec215f63bdb5e4b739524",
        ),
    ),
    model=ModelConfig(
        backbone="inception_v3",
        weights="imagenet",
        pooling="residual",
        dropout=0.3,
        compute_dtype="bfloat16",
    ),
    head=StageConfig(
        epochs=1, trainable="head", images_per_batch=4096, learning_rate=2e-3, label_smoothing=0.1
    ),
    finetune=StageConfig(
        epochs=8,
        images_per_batch=1024,
        learning_rate=4e-4,
        optimizer="nadamw",
        batch_statistics=True,
        label_smoothing=0.1,
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
    arguments = {"": SAMPLE, "laptop": LAPTOP, "cdiscount": CDISCOUNT, "smoke": SMOKE}
    return choose(arguments, argument)
