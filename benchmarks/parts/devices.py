"""Do 1, 2 and 4 fake CPU devices compute the same? The table of docs/guide/devices.md.

    python -m benchmarks.parts.devices

Runs the cases of tests/train/test_devices.py: 20 steps of a small net with dropout, augmentation
and, where everything is trained, batch statistics, over the same S = 4 shards; prints the largest
differences from one device (losses relative, parameters and statistics absolute) and the kinds of
collectives in the programs compiled for four devices. Needs the extra `test`.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import platform
from datetime import date

import jax
import numpy as np

from tests.train.test_devices import DEVICE_CASES, collectives, trajectory


def main() -> None:
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}\n")
    print("| trained | numbers | optimiser | devices | losses | parameters | at most |")
    print("|---|---|---|---|---|---|---|")
    for trainable, dtype, optimizer, tolerance in DEVICE_CASES:
        with jax.enable_x64(dtype == "float64"):
            one, *others = (
                trajectory(count, dtype, optimizer, trainable, "residual") for count in (1, 2, 4)
            )
        for count, (losses, leaves) in zip((2, 4), others, strict=True):
            loss = np.abs(np.asarray(losses) / np.asarray(one[0]) - 1).max()
            leaf = max(np.abs(value - one[1][path]).max() for path, value in leaves.items())
            print(
                f"| {trainable} | {dtype} | {optimizer} | {count} | {loss:.1e} | {leaf:.1e} "
                f"| {tolerance:.0e} |"
            )
    print("\n| program for 4 devices | collectives |\n|---|---|")
    for kind, trainable in (
        ("eval", "all"), ("eval_views", "all"), ("predict", "all"), ("train", "head"),
        ("train", "all"),
    ):  # fmt: skip
        name = f"{kind}, {trainable} trained" if kind == "train" else kind
        print(f"| {name} | {', '.join(sorted(collectives(kind, trainable))) or 'none'} |")


if __name__ == "__main__":
    main()
