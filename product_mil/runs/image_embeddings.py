"""Write the embeddings of all images of some data, by a pretrained backbone, to a file."""

import logging
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from product_mil.config import Config, DataConfig, ModelConfig
from product_mil.config.start import FromFile, Published
from product_mil.data.embeddings import embed_images
from product_mil.data.faults import FaultList, Policy, faults_path
from product_mil.devices.mesh import data_mesh
from product_mil.devices.runtime import embedding_batch_images
from product_mil.errors import UserError
from product_mil.files.outputs import Kind
from product_mil.files.whole import whole
from product_mil.model.classifier import Model
from product_mil.model.registry import backbone
from product_mil.runs.embed import embed_function
from product_mil.runs.model import build_model
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.opening import check_sources, open_catalogue

COLUMNS = ("product_id", "image_index", "embedding")


def _is_embeddings(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return False
        with zipfile.ZipFile(file) as archive:
            return sorted(archive.namelist()) == sorted(f"{name}.npy" for name in COLUMNS)


EMBEDDINGS = Kind("a file of embeddings", (".npz",), _is_embeddings)


class Exported(NamedTuple):
    """The numbers of a finished export."""

    num_embedded: int  # images that could be read
    num_images: int
    num_products: int
    remarks: list[str]  # lines for people on those that could not be read


def export_embeddings(
    backbone_name: str,
    weights: str,
    spec: str,
    output: Path,
    *,
    image_size_px: int = 180,
    bad_records: Policy = "skip",
    bad_images: Policy = "skip",
) -> Exported:
    """Embed the images of the data `spec` and write an .npz file of `COLUMNS`.

    `weights` is "imagenet" or a weights file. Faults are listed beside the output, or raised, by
    the policies.

    Raises:
        UserError: data or weights cannot be read, or the output cannot be written.
    """
    net = backbone(backbone_name)
    settings = ModelConfig(backbone=backbone_name, weights=weights, pooling="probabilities")
    match settings.start:
        case Published():
            pass
        case FromFile(path) if path.is_file():
            pass
        case _:
            raise UserError(f"--weights {weights}: no such file; or say imagenet")
    if image_size_px < net.min_image_size_px:
        raise UserError(
            f"--image_size_px {image_size_px}: {net.name} takes images from "
            f"{net.min_image_size_px} px"
        )
    check_sources(spec)  # refuses a mistyped path before weights are read
    config = Config(data=DataConfig(image_size_px=image_size_px), model=settings)
    model, notes = build_model(config, classes=1)
    catalogue = open_catalogue(spec)
    for note in notes:
        logging.getLogger(__name__).info("%s", note)
    faults = FaultList(
        faults_path(output), bad_records=bad_records, bad_images=bad_images, resumes=False
    )
    count = _export(
        catalogue, model, net.embedding_dim, faults, image_size_px=image_size_px, output=output
    )
    remarks = [*filter(None, [faults.write()])]
    return Exported(count, catalogue.num_images_total, catalogue.num_products, remarks)


def _export(
    catalogue: Catalogue,
    model: Model,
    dim: int,
    faults: FaultList,
    *,
    image_size_px: int,
    output: Path,
) -> int:
    """Write the .npz whole, or not at all. Embeddings are collected in a file, to save memory."""
    total = catalogue.num_images_total
    owner = np.repeat(np.arange(catalogue.num_products), catalogue.num_images)
    faults.add_records(catalogue)
    batch_images = embedding_batch_images()
    embed = embed_function(model, data_mesh(batch_images))
    rows, at = np.zeros(total, np.int64), 0
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".embeddings-") as directory:
        path = Path(directory) / "embedding.npy"
        _refuse_full_disk(Path(directory), total * dim * np.dtype(np.float32).itemsize)
        values = np.lib.format.open_memmap(path, "w+", np.float32, (max(total, 1), dim))
        for done, found, bad in embed_images(
            catalogue,
            np.arange(total),
            embed,
            image_size_px=image_size_px,
            batch_images=batch_images,
        ):
            rows[at : at + len(done)] = done
            values[at : at + len(done)] = found
            at += len(done)
            faults.add(bad)
        rows = rows[:at]
        columns = {
            "product_id": np.asarray(catalogue.product_id)[owner[rows]],
            "image_index": (rows - np.asarray(catalogue.first_image)[owner[rows]]).astype(np.int32),
            "embedding": values[:at],
        }
        with (
            whole(output, EMBEDDINGS) as draft,
            zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, column, allow_pickle=False)
    return at


def _refuse_full_disk(directory: Path, num_bytes: int) -> None:
    """Refuse a disk that is too full, because a memory map without room kills the process."""
    if shutil.disk_usage(directory).free < 2 * num_bytes:  # the rows, then the .npz
        raise UserError(
            f"the embeddings need {2 * num_bytes / 1e6:,.1f} MB beside --output while they are "
            "written, and the disk has less; make room or choose another place"
        )
