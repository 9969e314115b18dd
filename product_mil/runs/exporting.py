"""Write a trained model for use elsewhere: as a pretrained directory, and to the hub."""

import tempfile
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from product_mil.config import Config
from product_mil.files.hub import upload
from product_mil.files.outputs import check_output
from product_mil.runs.model_card import CardFacts, model_card
from product_mil.runs.pretrained import (
    CARD_FILE,
    PRETRAINED,
    WEIGHTS_FILE,
    description,
    refuse_nan,
    write_directory,
)
from product_mil.runs.trained import TrainedRun


def export_model(
    run: TrainedRun, directory: Path, facts: CardFacts, place: str | None = None
) -> None:
    """Write a run's model into a directory, whole or not at all.

    `place` is what the model card says to load; without it, the directory.

    Raises:
        UserError: the directory cannot be written, or holds other files; weights hold NaN.
    """
    check_output(directory, PRETRAINED)
    from safetensors.numpy import save

    arrays = run.model.parameters | run.model.statistics
    tensors = {name: np.asarray(array) for name, array in arrays.items()}
    refuse_nan(tensors, run.workdir)
    run = replace(run, config=without_places(run.config))
    files = {
        WEIGHTS_FILE: save(tensors, {"format": "product_mil"}),
        CARD_FILE: model_card(run, facts, place or directory.name).encode(),
    }
    write_directory(directory, files, _description(run))


def _description(run: TrainedRun) -> dict[str, Any]:
    data = run.config.data
    image = {
        "size_px": data.image_size_px,
        "of_product": data.max_images,
        "values": "RGB, uint8 from 0 to 255; the model scales them itself",
    }
    record = {**run.record, "config": run.config.to_dict()}
    return description(record, run.step, image=image, temperature=run.temperature)


def without_places(config: Config) -> Config:
    """A configuration that names files by their last names alone, not the directories they lie in.

    Those are nobody's business where the model travels to, and lead nowhere there.
    """

    def names(spec: str) -> str:
        return ",".join(PurePath(part).name for part in spec.split(","))

    data, model = config.data, config.model
    places = {name: names(getattr(data, name)) for name in ("train", "valid", "categories")}
    start = model.weights if model.weights.startswith("hf://") else names(model.weights)
    return replace(
        config,
        data=replace(data, **places),
        model=replace(model, weights=start, head_init=names(model.head_init)),
    )


def push_model(run: TrainedRun, name: str, facts: CardFacts, *, private: bool, message: str) -> str:
    """Upload a run's model to the hub as `owner/name`, and return its address there.

    Raises:
        UserError: as `upload` and `export_model` do.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "model"
        export_model(run, directory, facts, f"hf://{name}")
        return upload(directory, name, private=private, message=message)
