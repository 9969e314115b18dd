r"""Embed every image of BSON files with a pretrained backbone, in inference mode.

    python tools/export_embeddings.py --backbone mobilenet_v2 --weights imagenet \
        --data products.bson --output emb.npz

The .npz holds `product_id` [N], `image_index` [N] and `embedding` [N, d] (float32), a row for
each readable image in file order; the others are counted and listed beside it.
"""

import argparse
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from product_mil.cli.console import command
from product_mil.cli.flags import add_policy_flags
from product_mil.config import Config, DataConfig, ModelConfig
from product_mil.data.embeddings import embed_images
from product_mil.data.faults import FAULTS, FaultList, faults_path
from product_mil.devices.mesh import data_mesh
from product_mil.devices.runtime import configure_jax, embedding_batch_images
from product_mil.errors import UserError
from product_mil.files.outputs import Kind, check_output, user_path
from product_mil.files.whole import whole
from product_mil.model.classifier import Model
from product_mil.model.registry import backbone
from product_mil.runs.embed import embed_function
from product_mil.runs.model import build_model
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.bson.names import dump_files
from product_mil.sources.catalogue import Catalogue

COLUMNS = ("product_id", "image_index", "embedding")


def _is_embeddings(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return False
        with zipfile.ZipFile(file) as archive:
            return sorted(archive.namelist()) == sorted(f"{name}.npy" for name in COLUMNS)


EMBEDDINGS = Kind("a file of embeddings", (".npz",), _is_embeddings)


def export(
    catalogue: Catalogue,
    model: Model,
    dim: int,
    faults: FaultList,
    *,
    image_size_px: int,
    output: Path,
) -> int:
    """Write the .npz whole, or not at all; embeddings pass through a file, not through memory."""
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
            threads=os.cpu_count() or 1,
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
    """Refuse a disk that is too full now: a page of a map that finds no room kills the process."""
    if shutil.disk_usage(directory).free < 2 * num_bytes:  # the rows, then the .npz
        raise UserError(
            f"the embeddings need {2 * num_bytes / 1e6:,.1f} MB beside --output while they are "
            "written, and the disk has less; make room or choose another place"
        )


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse, embed, say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True, help="such as mobilenet_v2")
    parser.add_argument("--weights", required=True, help="'imagenet' or a weights file")
    parser.add_argument("--data", required=True, help="BSON file, comma-separated files or a glob")
    parser.add_argument("--output", required=True, type=user_path, help=".npz file")
    parser.add_argument("--image_size_px", type=int, default=180, help="default: 180")
    add_policy_flags(parser, "default: skip")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    check_output(output, EMBEDDINGS)
    check_output(faults_path(output), FAULTS)
    configure_jax()
    config = Config(
        data=DataConfig(image_size_px=arguments.image_size_px),
        model=ModelConfig(
            backbone=arguments.backbone, weights=arguments.weights, pooling="probabilities"
        ),
    )
    spec = backbone(arguments.backbone)
    if not Path(arguments.weights).is_file() and arguments.weights != "imagenet":
        raise UserError(f"--weights {arguments.weights}: no such file; or say imagenet")
    if arguments.image_size_px < spec.min_image_size_px:
        raise UserError(
            f"--image_size_px {arguments.image_size_px}: {spec.name} takes images from "
            f"{spec.min_image_size_px} px"
        )
    dump_files(arguments.data)  # a typing error shows before weights are read
    model, notes = build_model(config, classes=1)
    catalogue = open_catalogue(arguments.data)
    for note in notes:
        print(note)
    faults = FaultList(
        faults_path(output),
        bad_records=arguments.bad_records or "skip",
        bad_images=arguments.bad_images or "skip",
        resumes=False,
    )
    count = export(
        catalogue,
        model,
        spec.embedding_dim,
        faults,
        image_size_px=arguments.image_size_px,
        output=output,
    )
    summary = faults.write()
    print(
        f"{count} of {catalogue.num_images_total} images of {catalogue.num_products} products "
        f"embedded: {output}"
    )
    if summary:
        print(summary)
