"""EfficientNet-Lite0 in Keras, which has no such net: a second writing of it, to compare with.

Layers are named as keras.applications.EfficientNetB0 names its own.
"""

from typing import Any

STAGES = (  # kernel, repeats, features, expansion, stride: the paper's table without its first line
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)


def build(keras: Any) -> Any:
    """The net for any image size, without a top, that ends in the average."""
    layers = keras.layers

    def normalised(x: Any, name: str, relu: bool = True) -> Any:
        x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)
        return layers.ReLU(6.0)(x) if relu else x

    def conv(x: Any, features: int, size: int, stride: int, name: str) -> Any:
        of = {"strides": stride, "padding": "same", "use_bias": False, "name": name}
        return layers.Conv2D(features, size, **of)(x)

    first = keras.Input((None, None, 3))
    x = normalised(conv(first, 32, 3, 2, "stem_conv"), "stem_bn")
    for stage, (size, repeats, features, expansion, stride) in enumerate(STAGES, 1):
        for index in range(repeats):
            name, before, width = f"block{stage}{'abcd'[index]}_", x, x.shape[-1]
            if expansion > 1:
                x = conv(x, width * expansion, 1, 1, f"{name}expand_conv")
                x = normalised(x, f"{name}expand_bn")
            x = layers.DepthwiseConv2D(
                size, stride if index == 0 else 1, "same", use_bias=False, name=f"{name}dwconv"
            )(x)
            x = normalised(x, f"{name}bn")
            x = conv(x, features, 1, 1, f"{name}project_conv")
            x = normalised(x, f"{name}project_bn", relu=False)
            x = layers.Add()([x, before]) if index else x
    x = normalised(conv(x, 1280, 1, 1, "top_conv"), "top_bn")
    return keras.Model(first, layers.GlobalAveragePooling2D()(x))
