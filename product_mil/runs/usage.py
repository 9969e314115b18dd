"""How a model is used, for its card: an example for each format that it is written in."""

from product_mil.config import Config
from product_mil.inference.portable import PLATFORMS
from product_mil.model.registry import HEAD_SPECS, head
from product_mil.runs.pretrained import STABLEHLO_FILE


def _package(config: Config, place: str) -> str:
    own = head(config.model.pooling) not in HEAD_SPECS
    return (
        (_REGISTER.format(config.model.pooling) if own else "")
        + f"""```python
import product_mil

classifier = product_mil.load({place!r})
products = [["front.jpg", "back.jpg"], ["shoe.jpg"]]  # of each product its images
for prediction in classifier.predict(products, topk=3):
    for category_id, names, probability in zip(
        prediction.category_ids, prediction.names, prediction.probabilities
    ):
        print(category_id, " > ".join(names), probability)
    print("calibrated:", prediction.confidence)
```"""
    )


def _stable_hlo(config: Config, place: str) -> str:
    size = config.data.image_size_px
    return f"""`{STABLEHLO_FILE}` is the same model without product_mil: `jax` and `flatbuffers` \
run it, on {" and ".join(PLATFORMS)}. Images are RGB, scaled to {size} x {size} pixels by \
Pillow's bicubic filter.

```python
import json
from pathlib import Path

import numpy as np
from jax import export

directory = Path({place.removeprefix("hf://")!r})
model = export.deserialize(bytearray((directory / "{STABLEHLO_FILE}").read_bytes()))
category_ids = json.loads((directory / "config.json").read_bytes())["categories"]["ids"]
images = np.zeros((3, {size}, {size}, 3), np.uint8)  # of all products, one after the other
num_images = np.array([2, 1], np.int32)  # two of the first product, one of the second
probabilities = np.asarray(model.call(images, num_images))  # [products, categories]
print([category_ids[best] for best in probabilities.argmax(axis=1)])
```

Each new pair of shapes is compiled. A program that avoids this fills up: images after those that \
`num_images` counts are ignored, and a product of 0 images is answered by the frequencies in \
training. Of a product with more than {config.data.max_images} images the first ones count.\
"""


_REGISTER = (
    "The head `{}` does not come with product_mil: register it with "
    "`product_mil.heads.register` before `load`, or give a command `--import FILE.py`.\n\n"
)
USES = {"pretrained": _package, "stablehlo": _stable_hlo}
