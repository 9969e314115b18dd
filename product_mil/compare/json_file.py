"""`comparison.json`: the report for programs, with plain numbers and no NaN."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from product_mil.compare.page.sentences import verdict
from product_mil.compare.report import Report
from product_mil.compare.statistics.results import (
    Change,
    Comparison,
    ConfidenceBin,
    Control,
    Difference,
    Scores,
    Spread,
)
from product_mil.compare.statistics.tests import Estimate
from product_mil.files.outputs import Kind, names_in
from product_mil.files.whole import to_json

JSON_FILE = "comparison.json"
FORMAT = 2  # 1: intervals of several seeds were over products alone, and `p` was `mcnemar_p`


def report_json(report: Report) -> str:
    """The text of the file."""
    return to_json(report_values(report), allow_nan=False) + "\n"


def report_values(report: Report) -> dict[str, Any]:
    """A report as JSON values."""
    control = report.control
    return comparison_values(report.comparison) | {
        "headline": list(report.headline),
        "control": None if control is None else _control(control),
        "data": report.data,
        "differing_fields": report.differing_fields,
        "like_for_like": report.like_for_like,
        "notes": list(report.notes),
        "warnings": list(report.warnings),
        "temperature_hurts": report.temperature_hurts,
        "version": report.version,
        "date": report.date,
        "verdict": verdict(report),
        "gallery": asdict(report.gallery),
    }


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """The figures of a comparison as JSON values."""
    runs, rules = (
        {one.name: _scores(one) for one in comparison.scores if (one.rule_of is None) == are_runs}
        for are_runs in (True, False)
    )
    return {
        "format": FORMAT,
        "n": comparison.n,
        "runs": runs,
        "rules": rules,
        "difference": {pair_key(one.a, one.b): _difference(one) for one in comparison.differences},
    }


def pair_key(a: str, b: str) -> str:
    """The key of a pair: `a_minus_b`; names that could be read as two stand in quotes."""
    quoted = (
        json.dumps(name, ensure_ascii=False) if "minus" in name or '"' in name else name
        for name in (a, b)
    )
    return "_minus_".join(quoted)


def _interval(estimate: Estimate, name: str) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_ci95": list(estimate.ci95)}


def _scores(scores: Scores) -> dict[str, Any]:
    found: dict[str, Any] = {"how": scores.how, "seeds": scores.seeds}
    if scores.rule_of is not None:
        found["rule_of"] = scores.rule_of
    for name, estimate in scores.metrics.items():
        found |= _interval(estimate, name)
    if scores.temperature is not None:
        found["temperature"] = scores.temperature
    for name, groups in scores.groups.items():
        found[name] = {
            group: {"n": one.n} | _interval(one.accuracy, "accuracy")
            for group, one in groups.items()
        }
    if scores.between_seeds:
        found["between_seeds"] = {k: _spread(one) for k, one in scores.between_seeds.items()}
    found["reliability"] = {k: list(map(_bin, bins)) for k, bins in scores.reliability.items()}
    return found


def _spread(spread: Spread) -> dict[str, Any]:
    return {"values": list(spread.values), "standard_deviation": spread.standard_deviation}


def _bin(one: ConfidenceBin) -> dict[str, Any]:
    return {"n": one.n, "confidence": one.confidence} | _interval(one.accuracy, "accuracy")


def _difference(difference: Difference) -> dict[str, Any]:
    change = _change(difference.change)
    del change["n"]
    found = {"a": difference.a, "b": difference.b} | change
    for name, estimate in difference.metrics.items():
        found[name] = {"value": estimate.value, "ci95": list(estimate.ci95)}
    found["products_needed"] = difference.products_needed
    if difference.between_seeds is not None:
        p_values = {"mcnemar_p": list(difference.mcnemar_p_of_seeds)}
        found["between_seeds"] = _spread(difference.between_seeds) | p_values
    for name, groups in difference.groups.items():
        found[name] = {group: _change(one) for group, one in groups.items()}
    return found


def _change(change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {
        "n": change.n,
        "value": change.value,
        "ci95": list(change.ci95),
        "p": change.p,
        "mcnemar_p": change.mcnemar_p,
        "fixed": change.fixed,
        "broke": change.broke,
    }
    return found if change.holm_p is None else found | {"holm_p": change.holm_p}


def _control(control: Control) -> dict[str, Any]:
    return _change(control.change) | {
        "same_guess": control.same_guess,
        "treats_alike": control.treats_alike,
        "holds": control.holds,
    }


def _is_comparison(directory: Path) -> bool:
    """Whether the directory holds a comparison, or only the runs of one that was interrupted."""
    file = directory / JSON_FILE
    if file.exists():
        said = json.loads(file.read_bytes())
        return isinstance(said, Mapping) and {"headline", "runs", "version"} <= said.keys()
    return names_in(directory) == {"runs"}


COMPARISON = Kind("a comparison", (), _is_comparison)
