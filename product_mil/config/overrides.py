"""`--config.field=value`: fields of a configuration replaced by what a user wrote."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, get_origin

from product_mil.config.fields import STAGES, Config
from product_mil.config.leaves import Leaf, leaves
from product_mil.files.outputs import user_path


def override(config: Config, assignments: Sequence[tuple[str, str]]) -> tuple[Config, list[str]]:
    """Apply `("data.train", "x.bson")` pairs in order.

    Returns the new configuration and a message for each assignment that is wrong, so that
    `main` can show all of them at once.
    """
    errors: list[str] = []
    for name, text in _of_each_stage(assignments):
        if name not in leaves():
            import difflib

            near = difflib.get_close_matches(name, leaves(), n=3)
            hint = f"; did you mean {' or '.join('config.' + n for n in near)}?" if near else ""
            errors.append(f"config.{name}: there is no such field{hint}")
            continue
        try:
            config = _replaced(config, name.split("."), parse(text, leaves()[name]))
        except ValueError as error:
            errors.append(f"config.{name}={text}: {error}")
    return config, errors


def parse(text: str, leaf: Leaf) -> Any:
    """`text` as a value of the field's type; its bounds are not looked at.

    Raises:
        ValueError: with what was expected.
    """
    from pydantic import TypeAdapter, ValidationError

    value: Any = text
    if get_origin(leaf.kind) is tuple:
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    elif leaf.kind is str and text.startswith("~"):  # the shell leaves it alone after a =
        value = str(user_path(text))
    try:
        return TypeAdapter(leaf.kind).validate_python(value)
    except ValidationError:
        raise ValueError(f"expected {leaf.expected}") from None


def as_text(value: Any) -> str:
    """A value as `parse` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _of_each_stage(assignments: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """`augment.flip` stands for that of both stages."""
    for name, text in assignments:
        stages = STAGES if name.startswith("augment.") else ()
        yield from [(f"{stage}.{name}", text) for stage in stages] or [(name, text)]


def _replaced(node: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    new = _replaced(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: new})
