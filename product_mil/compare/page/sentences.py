"""The result in sentences, for somebody who decides."""

from collections.abc import Mapping
from typing import Any

from product_mil.compare.page.words import count, percent, points, span, with_sign


def everyone(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of each variant and each rule, by name; a variant's rules follow it."""
    found = {}
    for run, value in comparison["runs"].items():
        found[run] = value
        found |= {k: v for k, v in comparison["rules"].items() if v["rule_of"] == run}
    return found


def is_decided(difference: Mapping[str, Any]) -> bool:
    """Whether test and interval both say that there is a difference."""
    low, high = difference["ci95"]
    return difference["p"] < 0.05 and (low > 0 or high < 0)


def verdict(comparison: Mapping[str, Any]) -> str:
    """One line: what to believe of the headline's two."""
    a, b = comparison["headline"]
    difference = comparison["difference"][f"{a}_minus_{b}"]
    n, of = comparison["n"], everyone(comparison)
    seeds = sorted({of[a]["seeds"], of[b]["seeds"]})
    several = " or ".join(map(str, seeds))
    basis = f"{several} seed{'s' * (seeds != [1])}, {count(n)} product{'s' * (n != 1)}"
    better, worse, sign = (a, b, 1) if difference["value"] >= 0 else (b, a, -1)
    low, high = sorted(sign * bound for bound in difference["ci95"])
    figures = f"95 %: {_bare(low)} to {_bare(high)}, p {with_sign(difference['p'])}; {basis}"
    gap = f"{_bare(sign * difference['value'])} points"
    if difference["fixed"] == difference["broke"] == 0:
        line = f"{a} and {b} are right on the very same products ({basis})"
    elif is_decided(difference):
        line = f"{better} is right more often than {worse} by {gap} ({figures})"
        line += _on_one_image(difference, worse, sign)
    else:
        ahead = f"{better} is ahead by {gap}" if difference["value"] else "both are right as often"
        line = f"No difference between {a} and {b} can be told: {ahead} ({figures})"
        if difference["value"]:
            line += f"; to confirm that takes about {count(difference['products_needed'])} products"
            line += " or more seeds" * (seeds != [1])
    if comparison["differing_fields"] and not comparison["like_for_like"]:
        line += "; the runs differ in more than the pooling"
    if comparison["warnings"]:
        line += "; but this is no test: a run has seen some of these products"
    return line + "."


def _bare(value: float) -> str:
    """Points without a plus."""
    return points(value).removeprefix("+")


def _on_one_image(difference: Mapping[str, Any], worse: str, sign: int) -> str:
    """Who is better on products with one image, where others have several."""
    groups = difference.get("by_several_images", {})
    if len(groups) < 2:
        return ""
    one = groups["one"]
    where = f"; on the {count(one['n'])} products with one image"
    if not is_decided(one):
        return f"{where} no difference is seen"
    if sign * one["value"] < 0:
        where, sign = f"{where} {worse} is,", -sign
    low, high = sorted(sign * bound for bound in one["ci95"])
    return f"{where} by {_bare(sign * one['value'])} ({_bare(low)} to {_bare(high)})"


def summary(comparison: Mapping[str, Any]) -> list[str]:
    """The result in sentences for somebody who decides."""
    a, b = comparison["headline"]
    of = everyone(comparison)
    run_a, run_b = of[a], of[b]
    difference = comparison["difference"][f"{a}_minus_{b}"]
    sentences = [
        f"Of every 100 products, {a} puts {100 * run_a['accuracy']:.0f} into the right category at "
        f"its first guess and {b} {100 * run_b['accuracy']:.0f}: a difference of "
        f"{points(difference['value'])} points (95 % interval {span(difference['ci95'])}).",
        _changes(a, b, difference, comparison["n"], run_a["seeds"] == run_b["seeds"] == 1),
    ]
    several = _several(difference)
    if several:
        sentences.append(several)
    if comparison["control"] is not None:
        sentences.append(_control_sentence(a, b, comparison["control"]))
    rules = _rules_sentence(comparison)
    if rules:
        sentences.append(rules)
    if difference.get("between_seeds"):
        spread = difference["between_seeds"]
        values = ", ".join(points(value) for value in spread["values"])
        sentences.append(
            f"Trained {len(spread['values'])} times from different seeds, the difference was "
            f"{values} points (standard deviation {100 * spread['standard_deviation']:.1f}; exact "
            f"McNemar tests of each: p {', '.join(map(with_sign, spread['mcnemar_p']))})."
        )
    return sentences


def _changes(a: str, b: str, difference: Mapping[str, Any], n: int, one_seed: bool) -> str:
    fixed, broke = difference["fixed"], difference["broke"]
    whole = float(fixed).is_integer() and float(broke).is_integer()
    on_average = "" if whole else "on average "
    changes = (
        f"{on_average}{a} alone is right on {count(fixed)} of the {count(n)} products, "
        f"{b} alone on {count(broke)}"
    )
    how = "exact McNemar test" if one_seed else "pooled test over products and seeds"
    p = f"{how}, p {with_sign(difference['p'])}"
    if fixed == broke == 0:
        return f"Each product is right in both or wrong in both: the difference is exactly 0 ({p})."
    changes = changes[0].upper() + changes[1:] if on_average else changes
    if is_decided(difference):
        better = a if difference["value"] > 0 else b
        return f"{changes}. Chance does not explain this: {better} is better here ({p})."
    need = difference["products_needed"]
    tail = (
        f" To confirm a difference of this size takes about {count(need)} products." if need else ""
    )
    return f"{changes}. Chance alone can explain this: neither is shown to be better ({p}).{tail}"


def _several(difference: Mapping[str, Any]) -> str:
    """What products with more than one image contribute."""
    groups = difference.get("by_several_images", {})
    if len(groups) < 2:
        return ""
    several = groups["several"]
    return (
        f"On the {count(several['n'])} products with several images the difference is "
        f"{points(several['value'])} points (95 % interval {span(several['ci95'])})."
    )


def _control_sentence(a: str, b: str, control: Mapping[str, Any]) -> str:
    """With a single image there is nothing to fuse: do the two then agree?"""
    same = f"the same first guess on {percent(control['same_guess'], 0)} of {count(control['n'])}"
    figures = f"{points(control['value'])} points, 95 % interval {span(control['ci95'])}"
    start = "Control: with a single image there is nothing to fuse"
    if not control["treats_alike"]:
        text = (
            f"With a single image there is nothing to fuse, and yet {a} answers it in its own way "
            f"({same}). So these products are no control; the difference there ({figures}) is "
            f"a result of how {a} was trained"
        )
        low, high = control["ci95"]
        return text + (", not shown to be other than 0." if low <= 0 <= high else ".")
    if control["holds"]:
        return f"{start}, and there the two agree as they should ({same}; {figures})."
    return (
        f"{start}, and yet there the two differ ({figures}), although they mostly guess alike "
        f"({same}). Look for something besides the pooling that differs between these runs."
    )


def _rules_sentence(comparison: Mapping[str, Any]) -> str:
    a, b = comparison["headline"]
    rules = {k: v for k, v in comparison["rules"].items() if v["rule_of"] == b}
    difference = comparison["difference"][f"{a}_minus_{b}"]["value"]
    if not rules:
        return ""
    best = max(rules, key=lambda name: rules[name]["accuracy"])
    gain = comparison["difference"][f"{best}_minus_{b}"]
    label = best.rpartition("/")[2].replace("_", " ")
    rest = comparison["difference"][f"{a}_minus_{best}"]
    text = (
        f"The best other rule on {b}'s own probabilities, {label}, changes {points(gain['value'])} "
        f"points ({span(gain['ci95'])}) without any training"
    )
    if difference > 0:
        text += f"; {a} is {points(rest['value'])} points ({span(rest['ci95'])}) above that rule"
    return text + "."
