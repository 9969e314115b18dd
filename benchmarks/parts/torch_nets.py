"""MobileNetV2 and EfficientNet-Lite0 in PyTorch, as rivals that need no further package.

Padded alike on both sides, where TensorFlow's SAME is not: the cost is the same.
"""

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [_conv(inputs, wide, 1), nn.ReLU6(inplace=True)]
        layers += [_conv(wide, wide, size, stride, groups=wide), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*layers, _conv(wide, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


STAGES = {  # expansion, channels, blocks, stride of the first, kernel
    "mobilenet_v2": (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3),
    ),
    "efficientnet_lite0": (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    ),
}  # fmt: skip


class MobileNet(nn.Module):
    """Images, channels first, to an embedding of 1280; the net that `STAGES` has by that name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2), nn.ReLU6(inplace=True)]
        inputs = 32
        for expansion, outputs, count, first_stride, size in STAGES[name]:
            for k in range(count):
                stride = 1 if k else first_stride
                layers.append(_Block(inputs, outputs, size, stride, expansion))
                inputs = outputs
        self.layers = nn.Sequential(*layers, _conv(inputs, 1280, 1), nn.ReLU6(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))
