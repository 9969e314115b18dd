"""Write a trained model for use on other machines: as a pretrained directory, and to the hub."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from product_mil.config import Config
from product_mil.errors import UserError
from product_mil.files.hub import upload
from product_mil.files.outputs import check_output
from product_mil.inference.portable import probability_function, stable_hlo
from product_mil.model.registry import backbone
from product_mil.runs.model_card import CardFacts, model_card
from product_mil.runs.pretrained import (
    CARD_FILE,
    PRETRAINED,
    STABLEHLO_FILE,
    WEIGHTS_FILE,
    description,
    refuse_nan,
    write_directory,
)
from product_mil.runs.trained import TrainedRun
from product_mil.runs.usage import USES

Format = Literal["pretrained", "stablehlo"]  # the keys of `USES`


def export_model(
    run: TrainedRun,
    directory: Path,
    facts: CardFacts,
    formats: Sequence[Format] = ("pretrained",),
    place: str | None = None,
) -> None:
    """Write a run's model into a directory in these formats, whole or not at all.

    `place` is what the model card says to load; without it, the directory.

    Raises:
        UserError: the directory cannot be written, or holds other files; weights hold NaN; a format
            needs a package that is missing, or cannot hold the model.
    """
    check_output(directory, PRETRAINED)
    arrays = run.model.parameters | run.model.statistics
    tensors = {name: np.asarray(array) for name, array in arrays.items()}
    refuse_nan(tensors, run.workdir)
    run = replace(run, config=without_places(run.config))
    files: dict[str, bytes] = {}
    if "pretrained" in formats:
        files[WEIGHTS_FILE] = save(tensors, {"format": "product_mil"})
    if "stablehlo" in formats:
        files[STABLEHLO_FILE] = _stable_hlo(run)
    place = place or directory.name
    uses = [USES[name](run.config, place) for name in USES if name in formats]
    card = model_card(run, facts, uses)
    write_directory(directory, {**files, CARD_FILE: card.encode()}, _description(run))


def _stable_hlo(run: TrainedRun) -> bytes:
    model, spec = run.model, backbone(run.config.model.backbone)
    if spec.on_host is not None:
        raise UserError(
            f"{run.workdir}: {spec.name} is computed by Python on the host, and cannot be written "
            "as StableHLO; --format pretrained takes it"
        )
    function = probability_function(
        model.structure,
        model.parameters,
        model.statistics,
        run.log_prior,
        run.config.data.max_images,
    )
    return stable_hlo(function, run.config.data.image_size_px)


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
        export_model(run, directory, facts, place=f"hf://{name}")
        return upload(directory, name, private=private, message=message)
