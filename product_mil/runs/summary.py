"""What a run says of itself when it begins and when it ends, in lines for people."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from product_mil.config import Config
from product_mil.devices.hosts import are_several
from product_mil.runs.data import RunData
from product_mil.train.log import CURVES_FILE, RunLog, metrics_table

FEW_PRODUCTS = 30  # then a metric's standard error can be 9 points


def introduction(config: Config, workdir: Path, data: RunData, record: Mapping[str, Any]) -> str:
    """The model, the data and the directory of a run."""
    counts = data.categories.levels()
    categories = " / ".join(map(str, counts))
    if len(counts) > 1:
        categories += f" at levels {' / '.join(map(str, range(1, len(counts) + 1)))}"
    model_mb = record["parameters"] * 4 / 1e6
    free_gb = shutil.disk_usage(workdir).free / 1e9
    processes = f" of {jax.process_count()} processes" if are_several() else ""
    source = config.data.train or f"the embedded sample, seed {config.data.sample_seed}"
    if config.data.max_products:
        source += f"; at most {config.data.max_products} products (config.data.max_products)"
    return "\n".join(
        [
            f"product_mil {record['version']}: {config.model.pooling} over "
            f"{config.model.backbone}, {record['parameters'] / 1e6:.2f} M parameters, on "
            f"{jax.device_count()} {jax.devices()[0].device_kind} device(s){processes}",
            f"  data: {source}",
            f"  train {len(data.train)} products, {data.train.num_images.sum()} images; "
            f"valid {len(data.valid)} products; categories {categories}",
            f"  run: {workdir}, up to {model_mb * 12:.0f} MB of checkpoints "
            f"({free_gb:.0f} GB free)",
        ]
    )


def notes_on_validation(data: RunData) -> list[str]:
    """A line where too few products are validated on to say much."""
    count = int((data.valid.labels >= 0).sum())
    if count >= FEW_PRODUCTS:
        return []
    return [
        f"only {count} validation products: metrics and calibrated confidence say little below "
        f"{FEW_PRODUCTS}"
    ]


def conclusion(config: Config, log: RunLog, workdir: Path, spent_s: float) -> str:
    """The metrics of a run that ended, where its curves are, and what to do next."""
    rows = [row for row in log.metrics() if "valid/top1" in row]
    values = {k.removeprefix("valid/"): v for k, v in rows[-1].items() if k.startswith("valid/")}
    return "\n".join(
        [
            metrics_table(values, f"validation after the last step ({spent_s:.0f} s in all):"),
            f"learning curves: {workdir / CURVES_FILE}; docs/guide/metrics.md explains the metrics",
            f"next: {_next_command(config, workdir)}",
        ]
    )


def _next_command(config: Config, workdir: Path) -> str:
    """What to type to predict other products."""
    predict = f"product-mil predict --workdir {workdir} --output submission.csv --data"
    if config.data.train:
        train = Path(config.data.train)
        known = train.suffix if train.suffix in (".csv", ".parquet") else ".bson"
        return f"{predict} {'new/' if train.is_dir() else f'new{known}'}"
    return f"product-mil draw-sample --output drawn && {predict} drawn/products.bson"
