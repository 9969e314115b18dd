"""All fields of a configuration as a page of documentation, and as a JSON schema."""

from typing import Any

from product_mil.config.fields import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    StageConfig,
)
from product_mil.config.leaves import Leaf, flat, leaves_of
from product_mil.config.overrides import as_text

# Each class with the name of its part of a configuration, and where its defaults stand.
_PARTS = (
    (Config, "The run", ""),
    (DataConfig, "`data`", "data."),
    (ModelConfig, "`model`", "model."),
    (StageConfig, "`head` and `finetune`, the two stages", "finetune."),
    (AugmentConfig, "`head.augment` and `finetune.augment`", "finetune.augment."),
)
_INTRODUCTION = """\
# The configuration

Every field, with its type, its default, the values that it may have and what it means. `--config`
names a configuration: `joint:laptop`, or a Python file of your own with a `get_config(argument)`
that returns a `product_mil.config.Config`. `--config.field=value` changes one field:

    python -m product_mil.main --config=joint:laptop --config.data.train=train.bson

`--config.augment.flip=0.5` stands for that of both stages. What is wrong is refused before anything
is read, all errors at once. A run keeps its configuration in `config.json`; a field that is younger
than a run has its default there. `python tools/show_config.py --config=joint:laptop` shows the
fields of one configuration, `--schema` prints the JSON schema, and `--markdown` this page, which is
made from `product_mil/config/fields.py`.
"""


def page() -> str:
    """The documentation of all fields, in Markdown."""
    defaults = flat(Config())
    parts = [_INTRODUCTION]
    for kind, title, prefix in _PARTS:
        rows = [_row(leaf, defaults[prefix + leaf.name]) for leaf in leaves_of(kind, nested=False)]
        head = "| field | type | default | values | meaning |\n|---|---|---|---|---|"
        parts.append("\n".join([f"## {title}", "", kind.__doc__ or "", "", head, *rows, ""]))
    return "\n".join(parts)


def _row(leaf: Leaf, default: Any) -> str:
    text = as_text(default) or "(empty)"
    if leaf.name == "trainable":
        text = "all; head in `head`"
    return f"| `{leaf.name}` | {leaf.expected} | {text} | {leaf.bounds} | {leaf.about} |"


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration as `config.json` holds it."""
    from pydantic import TypeAdapter

    found = TypeAdapter(Config).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
