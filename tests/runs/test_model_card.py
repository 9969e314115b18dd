"""The card says what the run knows, its example runs, and text from data is only text."""

import json
import re
from dataclasses import replace
from pathlib import Path

import bson
import pytest

from product_mil.errors import UserError
from product_mil.runs.model_card import CardFacts, escaped, model_card
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun
from product_mil.sources.categories import Categories
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(trained: Path) -> TrainedRun:
    return open_run(trained)


def test_what_the_hub_reads(run: TrainedRun) -> None:
    card = huggingface_hub.ModelCard(model_card(run, CardFacts(license="cc-by-4.0"), []))
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "product_mil"
    assert card.data.pipeline_tag == "image-classification"
    assert {"jax", "small_cnn", "gated_attention"} <= set(card.data.tags)
    assert card.text.lstrip().startswith("# Product categories from all images of a product")
    unknown = huggingface_hub.ModelCard(model_card(run, CardFacts(), []))
    assert unknown.data.license is None


def test_figures(run: TrainedRun) -> None:
    card = model_card(run, CardFacts(data_description="Own photos.", data_license="CC0"), [])
    found = run.record["validation"]
    for count in ("1", "2", "3", "4"):
        products, top1 = (found[f"{name}_images_{count}"] for name in ("products", "top1"))
        assert f"| {count} | {products:.0f} | {top1:.4f} |" in card
    assert f"| all | {found['products']:.0f} | {found['top1']:.4f} |" in card
    assert f"temperature {run.temperature:.3f}" in card
    assert "- Data: Own photos\\.\n- Licence of the data: CC0\n" in card
    assert f"- Training products: {run.class_counts.sum()};" in card
    assert "5 / 16 / 29 groups" in card
    assert "20% of the products were split off" in card
    assert "- and 17 more" in card
    apart = replace(run.config, data=replace(run.config.data, valid="v.bson"), head=run.config.head)
    assert "Validation products were given apart" in model_card(
        replace(run, config=apart), CardFacts(), []
    )
    record = {name: value for name, value in run.record.items() if name != "validation"}
    assert "was not evaluated" in model_card(replace(run, record=record), CardFacts(), [])


def test_the_example_runs(
    trained: Path, run: TrainedRun, sample: SampleFiles, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import product_mil

    product_mil.load(trained).save_pretrained(tmp_path / "it's a model")
    images = bson.decode_all(sample.train.read_bytes())[0]["imgs"]
    for name in ("front", "back", "shoe"):
        (tmp_path / f"{name}.jpg").write_bytes(images[0]["picture"])
    text = (tmp_path / "it's a model" / "README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(example.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 8
    assert int(printed[0].split()[0]) in run.categories.ids
    assert printed[3].startswith("calibrated: 0.")


def test_text_from_data_stays_text(run: TrainedRun) -> None:
    evil = "<script>alert(1)</script> [a](http://b) `c` | *d* _e_\n# f\x1b[31m \u2028 &amp; @me"
    assert escaped(evil) == (
        r"\<script\>alert\(1\)\<\/script\> \[a\]\(http\:\/\/b\) \`c\` \| \*d\* \_e\_ \# f"
        r" \[31m   \&amp\; \@me"
    )
    names = [[evil, str(i)] for i in range(29)]
    categories = Categories.from_json(json.dumps({"ids": list(range(29)), "names": names}))
    facts = CardFacts(license="x\n---\nevil: 1", data_description=evil, data_license=evil)
    text = model_card(replace(run, categories=categories), facts, [])
    assert "<script>alert" not in text
    assert "\n# f" not in text
    card = huggingface_hub.ModelCard(text)
    assert card.data.license == "x\n---\nevil: 1"
    assert "evil" not in card.data.to_dict()


def test_the_comparison(run: TrainedRun, tmp_path: Path) -> None:
    scores = {
        "joint": {"accuracy": 0.75, "accuracy_ci95": [0.5, 0.875]},
        "averaged": {"accuracy": 0.5, "accuracy_ci95": [0.25, 0.625]},
    }
    found = {
        "headline": ["joint", "averaged"], "runs": scores, "rules": {}, "n": 1234,
        "verdict": "joint is right more often", "date": "2026-11-28",
    }  # fmt: skip
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    for place in (tmp_path, tmp_path / "comparison.json"):
        card = model_card(run, CardFacts(comparison=place), [])
        assert "## Compared\n\njoint is right more often\n\nOn 1234 products" in card
        assert "| joint | 0.7500 | 0.5000 to 0.8750 |\n| averaged | 0.5000 |" in card
    (tmp_path / "other.json").write_text('{"headline": ["a"]}')
    for name, reason in (("other.json", "it is no comparison"), ("absent", "No such file")):
        with pytest.raises(UserError, match=rf"{name}: cannot be read \({reason}.*name the"):
            model_card(run, CardFacts(comparison=tmp_path / name), [])


@pytest.mark.slow
def test_a_comparison_that_compare_wrote(
    trained: Path, run: TrainedRun, sample: SampleFiles, tmp_path: Path
) -> None:
    call_tool(
        "compare", "--runs", f"a={trained}", f"b={trained}", "--data", sample.train,
        "--output", tmp_path / "out",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    card = model_card(run, CardFacts(comparison=tmp_path / "out"), [])
    assert f"On {found['n']} products" in card
    assert f"| a | {found['runs']['a']['accuracy']:.4f} |" in card
