"""The fields of a configuration one by one, by their dotted names."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from product_mil.config.fields import Config

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Leaf:
    """A field that holds a value, no other fields."""

    name: str  # such as data.train
    kind: Any  # the annotated type
    metadata: Mapping[str, Any]  # of `fields.setting`

    @property
    def about(self) -> str:
        """A sentence about it."""
        return self.metadata["description"]

    @property
    def expected(self) -> str:
        """Its type in words."""
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(get_args(self.kind))}"
        return _KINDS.get(self.kind, "texts with commas")

    @property
    def bounds(self) -> str:
        """The values that it may have, in words; empty if any of its type."""
        least, above, most, below = (self.metadata.get(of) for of in ("ge", "gt", "le", "lt"))
        if least is not None and most is not None:
            return f"from {_number(least)} to {_number(most)}"
        ends = ((least, "at least"), (above, "above"), (most, "at most"), (below, "below"))
        return " and ".join(f"{words} {_number(end)}" for end, words in ends if end is not None)


def _number(bound: int | float) -> str:
    """A bound as people write it; whole numbers with all their digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


@functools.cache
def leaves() -> Mapping[str, Leaf]:
    """Every field that holds a value, by its name, in the order of their declaration."""
    return MappingProxyType({leaf.name: leaf for leaf in leaves_of(Config)})


def leaves_of(kind: Any, prefix: str = "", *, nested: bool = True) -> Iterator[Leaf]:
    """Those of a class of fields and, if `nested`, of the classes in it."""
    hints = get_type_hints(kind)
    for each in dataclasses.fields(kind):
        name = prefix + each.name
        if not dataclasses.is_dataclass(hints[each.name]):
            yield Leaf(name, hints[each.name], each.metadata)
        elif nested:
            yield from leaves_of(hints[each.name], f"{name}.")


def flat(config: Config) -> dict[str, Any]:
    """The value of every field by its dotted name, `data.train` and so on."""
    return flatten_dict(config.to_dict())


def flatten_dict(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            result |= flatten_dict(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
