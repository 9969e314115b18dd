"""What a training step sends between devices: the bytes of its collectives, from compiled programs.

    python -m benchmarks.studies.network [--backbone inception_v3] [--classes 5270]

The step of each stage is compiled for 4 devices, which need not exist (this CPU stands for them),
and nothing runs. In an all-reduce each host sends and receives nearly twice its bytes; the times
are those of a network of so many Gb/s, if nothing hides them.
"""

import argparse
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.measure import table_of
from benchmarks.parts.training import batch_of, training

GBITS_PER_S = (10, 100, 400)
_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all)(?:-start)?\(")
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+))\[([\d,]*)\]")


def collective_bytes(program: str) -> dict[str, int]:
    """The bytes of the results of each kind of collective in a compiled program."""
    found: dict[str, int] = {}
    for result, kind in _COLLECTIVE.findall(program):
        for bits, shape in _ARRAY.findall(result):
            count = int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))
            found[kind] = found.get(kind, 0) + count * int(bits or 8) // 8
    return found


def step_program(backbone: str, classes: int, trainable: str) -> tuple[str, int]:
    """The compiled step of a stage as text, and the number of its trained parameters."""
    made = training(
        backbone,
        classes=classes,
        trainable=trainable,
        batch_statistics=trainable == "all",
        pooling="posterior_attention",
        dtype="bfloat16",
    )
    # Gradients are as large for any batch.
    batch = batch_of([[2]] * made.mesh.size, 2, 1, 180, classes)

    def described(tree: object, *axes: str) -> object:
        sharding = NamedSharding(made.mesh, PartitionSpec(*axes))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
        )

    arguments = described(made.state), described(batch, "data"), described(made.key)
    text = made.step.lower(*arguments).compile().as_text()  # type: ignore[attr-defined]
    return text, sum(leaf.size for leaf in made.state.trainable.values())


def main() -> None:
    """Print the bytes of each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="inception_v3")
    parser.add_argument("--classes", type=int, default=5270)
    given = parser.parse_args()
    rows = []
    for trainable in ("head", "all"):
        program, trained = step_program(given.backbone, given.classes, trainable)
        found = collective_bytes(program)
        total = sum(found.values())
        row = {"trained": trainable, "M parameters": trained / 1e6, "MB a step": total / 1e6}
        row |= {"bytes a parameter": total / trained}
        row |= {f"ms at {g} Gb/s": 2 * total * 8 / g / 1e6 for g in GBITS_PER_S}
        row |= {f"MB of {kind}": size / 1e6 for kind, size in found.items()}
        rows.append(row)
    print(table_of(rows, lambda cell: cell if isinstance(cell, str) else f"{cell:.3f}"))


if __name__ == "__main__":
    main()
