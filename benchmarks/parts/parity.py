"""How far the ported backbones are from Keras' own (JAX backend) on real photos.

    python -m benchmarks.parts.parity --data photos.bson [--images 32] [--backbones xception]
    python -m benchmarks.parts.parity --data photos.bson --weights mobilenet_v2_..._224.h5

By default every weight is random, saved in the layout and naming of Keras' published files and read
by `tools/export_embeddings.py`, which embeds the photos at 180 px. With --weights, the published
MobileNetV2 file with the ImageNet top: embeddings and logits at 180 and 224 px. Printed is the
largest difference over the largest value, and that of Keras in batches and photo by photo: where it
is as large, the net with these weights amplifies rounding and tells no more.
Needs the extra `test` (Keras) and runs in a checkout.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
ROOT = Path(__file__).resolve().parents[2]

import bson
import jax
import keras
import numpy as np
from flax import nnx

from product_mil.data.decode import decode_images, is_remark
from product_mil.model.registry import backbone
from product_mil.model.weights.load import load_weights
from product_mil.sources.bson.index import open_catalogue
from tests.model import keras_files


def photos(data: str, size_px: int, count: int) -> np.ndarray:
    catalogue = open_catalogue(data)
    pixels = np.zeros((min(count, catalogue.num_images_total), size_px, size_px, 3), np.uint8)
    faults = decode_images(catalogue.read(np.arange(len(pixels))), pixels)
    assert all(map(is_remark, faults.values())), faults
    return pixels


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def first_products(data: str, output: Path, count: int) -> None:
    """The first products of a BSON file, until they have `count` photos."""
    images = 0
    with Path(data).open("rb") as source, output.open("wb") as target:
        for product in bson.decode_file_iter(source):
            if images >= count:
                return
            target.write(bson.encode(product))
            images += len(product["imgs"])


def exported(name: str, weights: Path, data: Path, work: Path) -> np.ndarray:
    """The embeddings that the tool writes, as a user would call it."""
    output = work / "embeddings.npz"
    arguments = {"backbone": name, "weights": weights, "data": data, "output": output}
    command = [sys.executable, str(ROOT / "tools" / "export_embeddings.py")]
    command += [f"--{key}={value}" for key, value in arguments.items()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    with np.load(output) as file:
        return file["embedding"]


def exported_against_keras(name: str, data: str, count: int) -> str:
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        theirs = keras_files.build(keras, name)
        if name == "mobilenet_v2":  # Keras pads this one by the size that it is built for
            net = keras_files.fixed_size(keras, theirs, 180)
        else:
            net = keras.Model(theirs.inputs, theirs.outputs[0])
        keras_files.save_as_published(keras, theirs, work / "weights.h5")
        first_products(data, work / "photos.bson", count)
        found = exported(name, work / "weights.h5", work / "photos.bson", work)
        pixels = photos(str(work / "photos.bson"), 180, len(found))
        embed = jax.jit(lambda x: net(x, training=False))
        scaled = keras_files.scaled(name, pixels)
        batches = np.array_split(scaled, max(len(pixels) // 8, 1))
        wanted = np.concatenate([np.asarray(embed(batch)) for batch in batches])
        alone = np.concatenate([np.asarray(embed(image[None])) for image in scaled])
    line = f"{name}: random weights, {len(found)} photos exported at 180 px"
    itself = f"Keras with itself, photo by photo: {relative(alone, wanted):.1e}"
    return f"{line}: {relative(found, wanted):.1e}; {itself}"


def published_against_keras(data: str, weights: str, count: int) -> None:
    spec = backbone("mobilenet_v2")
    net = spec.build(rngs=nnx.Rngs(0))
    top = load_weights(net, spec, Path(weights)).top
    if top is None:
        sys.exit("--weights: this file has no ImageNet top")
    structure, state = nnx.split(net)
    embed = jax.jit(lambda s, x: nnx.merge(structure, s)(x, use_running_statistics=True))
    # Any: Keras annotates None away.
    build: Any = keras.applications.MobileNetV2
    for size_px in (180, 224):
        pixels = photos(data, size_px, count)
        theirs = build(input_shape=(size_px, size_px, 3), weights=None, classifier_activation=None)
        theirs.load_weights(weights)
        both = keras.Model(theirs.inputs, [theirs.layers[-2].output, theirs.output])
        wanted, wanted_logits = (np.asarray(x) for x in both(pixels.astype(np.float32) / 127.5 - 1))
        found = np.asarray(embed(state, pixels))
        logits = found @ top.kernel + top.bias
        agree = int((logits.argmax(1) == wanted_logits.argmax(1)).sum())
        print(
            f"mobilenet_v2, {size_px} px, {len(pixels)} photos: embeddings "
            f"{relative(found, wanted):.1e}, logits {relative(logits, wanted_logits):.1e}, "
            f"same top-1 {agree} of {len(pixels)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", help="MobileNetV2's published file with the ImageNet top")
    parser.add_argument("--backbones", default=",".join(keras_files.NETS))
    parser.add_argument("--images", type=int, default=32)
    arguments = parser.parse_args()
    print(f"keras {keras.__version__}, jax {jax.__version__}, {arguments.data}")
    if arguments.weights:
        published_against_keras(arguments.data, arguments.weights, arguments.images)
        return
    for name in arguments.backbones.split(","):
        print(exported_against_keras(name, arguments.data, arguments.images), flush=True)


if __name__ == "__main__":
    main()
