"""Memory traffic of a compiled program, kernel by kernel, from XLA's text of it.

XLA's own count of "bytes accessed" leaves calls into cuDNN out, which are most of a net's.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4,
    "u32": 4, "f64": 8, "s64": 8, "u64": 8,
}  # fmt: skip
_ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)$")
_NAMES = re.compile(r"%([\w.\-]+)")
# These move nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_SLICES = {"slice", "dynamic-slice", "gather"}


class Kernel(NamedTuple):
    """One kernel, or call into a library; bytes of all the times it runs."""

    kind: str  # the library's function, or what XLA calls the kernel
    bytes: float
    float32_bytes: float
    times: int
    name: str  # of the instruction
    shape: str  # of its result


class _Instruction(NamedTuple):
    is_root: bool
    name: str
    type: str
    op: str
    arguments: str
    attributes: str

    def operands(self) -> list[str]:
        return _NAMES.findall(self.arguments)

    def named(self, attribute: str) -> str:
        found = re.search(rf"{attribute}=%([\w.\-]+)", self.attributes)
        return found[1] if found else ""


Computations = dict[str, list[_Instruction]]


def kernels(text: str) -> list[Kernel]:
    """The kernels of a program, as `compiled.as_text()` shows it."""
    computations: Computations = {}
    current: list[_Instruction] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations["ENTRY" if head[1] else head[2]] = []
        elif found := _INSTRUCTION.match(line):
            root, *rest = found.groups()
            current.append(_Instruction(root is not None, *rest))
    return list(_run(computations, "ENTRY", 1))


def _run(computations: Computations, name: str, times: int) -> Iterator[Kernel]:
    types = {instruction.name: instruction.type for instruction in computations[name]}
    for made in computations[name]:
        if made.op in _FREE:
            continue
        if made.op == "while":
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', made.attributes)
            yield from _run(computations, made.named("body"), times * int(trips[1] if trips else 1))
            continue
        if made.op == "call":
            yield from _run(computations, made.named("to_apply"), times)
            continue
        shares = _shares(computations[made.named("calls")]) if made.op == "fusion" else {}
        moved: float = _bytes(made.type)
        float32: float = _bytes(made.type, "f32")
        for index, operand in enumerate(made.operands()):
            share = shares.get(index, 1.0)
            moved += share * _bytes(types.get(operand, ""))
            float32 += share * _bytes(types.get(operand, ""), "f32")
        yield Kernel(
            _kind(made), times * moved, times * float32, times, made.name, _shape(made.type)
        )


def _kind(made: _Instruction) -> str:
    if target := re.search(r'custom_call_target="([^"]+)"', made.attributes):
        return target[1]
    kind = re.search(r"kind=(\w+)", made.attributes)
    return f"{made.op} {kind[1]}" if kind else made.op


def _shape(type_: str) -> str:
    """The first array of a type, without its layout."""
    found = _ARRAY.search(type_)
    return found[0] if found else type_


def _shares(computation: list[_Instruction]) -> dict[int, float]:
    """The share of each parameter that a fusion reads: less than all of it behind a slice."""
    sizes = {made.name: _elements(made.type) for made in computation}
    shares: dict[str, float] = defaultdict(float)
    found = {}
    for made in reversed(computation):
        own = 1.0 if made.is_root else min(1.0, shares[made.name])
        if made.op == "parameter":
            found[int(made.arguments)] = own
            continue
        for operand in made.operands():
            if operand not in sizes:
                continue
            if made.op in _SLICES:
                shares[operand] += own * sizes[made.name] / max(sizes[operand], 1)
            else:
                shares[operand] = max(shares[operand], 1.0 if made.op == "broadcast" else own)
    return found


def _elements(type_: str) -> int:
    return sum(_count(shape) for _, shape in _ARRAY.findall(type_))


def _bytes(type_: str, only: str = "") -> int:
    arrays = _ARRAY.findall(type_)
    return sum(BYTES[of] * _count(shape) for of, shape in arrays if only in ("", of))


def _count(shape: str) -> int:
    return math.prod(int(size) for size in shape.split(",") if size)
