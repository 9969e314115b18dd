"""What is made from the declaration of the fields: their documentation and their JSON schema."""

import json

from product_mil.config import Config, load_config
from product_mil.config.leaves import leaves
from product_mil.config.table import page, schema
from product_mil.files.package import packaged_configurations
from product_mil.model.registry import HEAD_SPECS
from tests.scripts import ROOT

PAGE = ROOT / "docs" / "guide" / "configuration.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        f"python tools/show_config.py --markdown > {PAGE.relative_to(ROOT)}"
    )


def test_a_row_of_the_page() -> None:
    rows = page().splitlines()
    (row,) = [row for row in rows if row.startswith("| `valid_fraction`")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "`valid_fraction`",
        "a number",
        "0.2",
        "above 0 and below 1",
        "Share of `train` that is split off where `valid` is empty.",
    ]
    names = {name.rpartition(".")[2] for name in leaves()}
    assert {row.split("`")[1] for row in rows if row.startswith("| `")} == names


def test_every_field_has_a_sentence() -> None:
    for name, leaf in leaves().items():
        assert leaf.about.endswith("."), name
        assert "|" not in leaf.about
    heads = leaves()["model.pooling"].about
    assert heads.startswith("The head: " + ", ".join(spec.name for spec in HEAD_SPECS) + ", or")


def test_schema() -> None:
    found = schema()
    assert json.loads(json.dumps(found)) == found
    parts = found["$defs"]
    assert list(found["properties"]) == list(Config().to_dict())
    shards = parts["DataConfig"]["properties"]["shards"]
    assert (shards["type"], shards["minimum"], shards["default"]) == ("integer", 1, 4)
    dropout = parts["ModelConfig"]["properties"]["dropout"]
    assert (dropout["minimum"], dropout["exclusiveMaximum"]) == (0, 1)
    assert parts["StageConfig"]["properties"]["optimizer"]["enum"] == ["adamw", "nadamw", "sgd"]
    for name in packaged_configurations():
        stored = load_config(name).to_dict()
        for part, kind in (
            ("data", "DataConfig"),
            ("model", "ModelConfig"),
            ("head", "StageConfig"),
        ):
            assert list(stored[part]) == list(parts[kind]["properties"])
