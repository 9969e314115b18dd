"""How far the ported backbones are from Keras' own (JAX backend) on real photos.

    python benchmarks/parity.py --weights mobilenet_v2_..._224.h5 --data photos.bson [--images 32]

Takes the published file with the ImageNet top and prints, for 180 and 224 px, the largest
difference of embeddings and logits over the largest value, and on how many photos the top-1 agrees.
Needs the extra `test` (Keras).
"""

import argparse
import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from flax import nnx

from product_mil.data.images import decode_into
from product_mil.data.index import open_catalogue
from product_mil.data.loader import FileReader
from product_mil.model.backbones import backbone
from product_mil.model.weights import load_weights


def photos(data: str, size_px: int, count: int) -> np.ndarray:
    catalogue = open_catalogue(data)
    reader = FileReader(catalogue.paths)
    pixels = np.zeros((min(count, catalogue.num_images_total), size_px, size_px, 3), np.uint8)
    for row, place in enumerate(pixels):
        file = int(catalogue.file_of_images(np.array([row]))[0])
        offset, length = catalogue.image_offset_bytes[row], catalogue.image_length_bytes[row]
        decode_into(reader.read(file, int(offset), int(length)), place)
    return pixels


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=32)
    arguments = parser.parse_args()
    spec = backbone("mobilenet_v2")
    net = spec.build(rngs=nnx.Rngs(0))
    top = load_weights(net, spec, arguments.weights).top
    if top is None:
        parser.error("--weights: this file has no ImageNet top")
    structure, state = nnx.split(net)
    embed = jax.jit(lambda s, x: nnx.merge(structure, s)(x, use_running_statistics=True))
    # Any: Keras annotates None away.
    build: Any = keras.applications.MobileNetV2
    print(f"mobilenet_v2, keras {keras.__version__}, jax {jax.__version__}, {arguments.data}")
    for size_px in (180, 224):
        pixels = photos(arguments.data, size_px, arguments.images)
        theirs = build(input_shape=(size_px, size_px, 3), weights=None, classifier_activation=None)
        theirs.load_weights(arguments.weights)
        both = keras.Model(theirs.inputs, [theirs.layers[-2].output, theirs.output])
        wanted, wanted_logits = (np.asarray(x) for x in both(pixels.astype(np.float32) / 127.5 - 1))
        found = np.asarray(embed(state, pixels))
        logits = found @ top.kernel + top.bias
        agree = int((logits.argmax(1) == wanted_logits.argmax(1)).sum())
        print(
            f"{size_px} px, {len(pixels)} photos: embeddings {relative(found, wanted):.1e}, logits "
            f"{relative(logits, wanted_logits):.1e}, same top-1 {agree} of {len(pixels)}"
        )


if __name__ == "__main__":
    main()
