"""The result in sentences, for a reader who has to decide between two systems."""

from product_mil.compare.page.words import about, count, percent, points, span, with_sign
from product_mil.compare.report import Report
from product_mil.compare.statistics.results import Change, Control, Difference, Scores
from product_mil.model.registry import HEADS


def verdict(report: Report) -> str:
    """One line that says which of the headline's two entries is better, and how sure that is."""
    a, b = report.headline
    change, n = report.difference.change, report.comparison.n
    seeds = sorted({report.comparison.of(name).seeds for name in (a, b)})
    several = " or ".join(map(str, seeds))
    basis = f"{several} seed{'s' * (seeds != [1])}, {count(n)} product{'s' * (n != 1)}"
    better, worse, sign = (a, b, 1) if change.value >= 0 else (b, a, -1)
    low, high = sorted(sign * bound for bound in change.ci95)
    figures = f"95 %: {_bare(low)} to {_bare(high)}, p {with_sign(change.p)}; {basis}"
    gap = f"{_bare(sign * change.value)} points"
    if change.fixed == change.broke == 0:
        line = f"{a} and {b} are right on the very same products ({basis})"
    elif change.is_decided:
        line = f"{better} is right more often than {worse} by {gap} ({figures})"
        line += _over_best_rule(report)
        line += _on_one_image(report.difference, worse, sign)
    else:
        ahead = f"{better} is ahead by {gap}" if change.value else "both are right as often"
        line = f"No difference between {a} and {b} is shown: {ahead} ({figures})"
        if needed := report.difference.products_needed:
            line += f"; to confirm that takes about {about(needed)} products"
            line += " or more seeds" * (seeds != [1])
    if report.differing_fields and not report.like_for_like:
        line += "; the runs differ in more than the pooling"
    if report.warnings:
        line += "; but this is no test: a run has seen some of these products"
    return line + "."


def _bare(value: float) -> str:
    """Points without a plus sign."""
    return points(value).removeprefix("+")


def _best_rule(report: Report) -> Scores | None:
    """The best other rule on the probabilities of the reference; None if it has none."""
    _, b = report.headline
    rules = report.comparison.rules_of(b)
    return max(rules, key=lambda rule: rule.accuracy.value, default=None)


def _label(rule: Scores) -> str:
    return rule.name.rpartition("/")[2].replace("_", " ")


def _over_best_rule(report: Report) -> str:
    """A clause on the reference's best other rule; empty if that is no better than its own."""
    (a, b), best = report.headline, _best_rule(report)
    if (
        best is None
        or report.difference.change.value < 0
        or best.accuracy.value <= report.comparison.of(b).accuracy.value
    ):
        return ""
    rest = report.comparison.difference(a, best.name).change
    rule = f"{b}'s best other rule, {_label(best)}"
    if not rest.is_decided:
        shown = f"{points(rest.value)} ({span(rest.ci95)})"
        return f"; no difference from {rule}, is shown: {shown}"
    if rest.value < 0:
        return f"; {rule}, is right more often than {a}, by {_gap(rest.turned())}"
    return f"; by {_gap(rest)} over {rule}"


def _gap(change: Change) -> str:
    """A difference and its interval, of the better minus the worse: 4.2 (2.9 to 5.5)."""
    low, high = change.ci95
    return f"{_bare(change.value)} ({_bare(low)} to {_bare(high)})"


def _on_one_image(difference: Difference, worse: str, sign: int) -> str:
    """A clause on products with one image; empty where all have one, or all have several."""
    groups = difference.groups.get("by_several_images", {})
    if len(groups) < 2:
        return ""
    one = groups["one"]
    where = f"; on the {count(one.n)} products with one image"
    if not one.is_decided:
        return f"{where} no difference is seen"
    if sign * one.value < 0:
        where += f" {worse} is,"
    return f"{where} by {_gap(one if one.value > 0 else one.turned())}"


def summary(report: Report) -> list[str]:
    """The result in sentences, the most important first."""
    a, b = report.headline
    of_a, of_b = (report.comparison.of(name) for name in (a, b))
    difference, change = report.difference, report.difference.change
    sentences = [
        f"Of every 1,000 products, {a} puts {count(round(1000 * of_a.accuracy.value))} into the "
        f"right category at its first guess and {b} "
        f"{count(round(1000 * of_b.accuracy.value))}: a difference of "
        f"{points(change.value)} points (95 % interval {span(change.ci95)}).",
        _changes(difference, report.comparison.n, of_a.seeds == of_b.seeds == 1),
    ]
    several = _several(difference)
    if several:
        sentences.append(several)
    if report.control is not None:
        sentences.append(_control_sentence(report, report.control))
    rules = _rules_sentence(report)
    if rules:
        sentences.append(rules)
    spread = difference.between_seeds
    if spread is not None:
        values = ", ".join(points(value) for value in spread.values)
        sentences.append(
            f"Trained {len(spread.values)} times from different seeds, the difference was "
            f"{values} points (standard deviation {100 * spread.standard_deviation:.1f}; exact "
            f"McNemar tests of each: p {', '.join(map(with_sign, difference.mcnemar_p_of_seeds))})."
        )
    return sentences


def _changes(difference: Difference, n: int, one_seed: bool) -> str:
    a, b, change = difference.a, difference.b, difference.change
    fixed, broke = change.fixed, change.broke
    whole = float(fixed).is_integer() and float(broke).is_integer()
    on_average = "" if whole else "on average "
    changes = (
        f"{on_average}{a} alone is right on {count(fixed)} of the {count(n)} products, "
        f"{b} alone on {count(broke)}"
    )
    how = "exact McNemar test" if one_seed else "pooled test over products and seeds"
    p = f"{how}, p {with_sign(change.p)}"
    if fixed == broke == 0:
        return f"Each product is right in both or wrong in both: the difference is exactly 0 ({p})."
    changes = changes[0].upper() + changes[1:] if on_average else changes
    if change.is_decided:
        better = a if change.value > 0 else b
        return f"{changes}. Chance does not explain this: {better} is better here ({p})."
    need = difference.products_needed
    tail = (
        f" To confirm a difference of this size takes about {about(need)} products." if need else ""
    )
    return f"{changes}. Chance alone can explain this: neither is shown to be better ({p}).{tail}"


def _several(difference: Difference) -> str:
    """A sentence on products with several images; empty where there are no two kinds."""
    groups = difference.groups.get("by_several_images", {})
    if len(groups) < 2:
        return ""
    several = groups["several"]
    return (
        f"On the {count(several.n)} products with several images the difference is "
        f"{points(several.value)} points (95 % interval {span(several.ci95)})."
    )


def _control_sentence(report: Report, control: Control) -> str:
    """A sentence on whether the two agree on products with one image, where nothing is fused."""
    (a, b), change = report.headline, control.change
    same = f"the same first guess on {percent(control.same_guess, 0)} of {count(change.n)}"
    figures = f"{points(change.value)} points, 95 % interval {span(change.ci95)}"
    start = "Control: with a single image there is nothing to fuse"
    if not control.treats_alike:
        text = (
            f"With a single image there is nothing to fuse, and yet {a} answers it in its own way "
            f"({same}). So these products are no control; the difference there ({figures}) is "
            f"a result of how {a} was trained"
        )
        low, high = change.ci95
        text += ", not shown to be other than 0." if low <= 0 <= high else "."
        averages = tuple(_averages_images(report, name) for name in report.headline)
        if low > 0 and averages == (False, True):
            text += (
                f" A possible reason: {a} learns from whole products, so it can know which "
                f"categories never have a single image; {b}, trained image by image, cannot."
            )
        return text
    if control.holds:
        return f"{start}, and there the two agree as they should ({same}; {figures})."
    return (
        f"{start}, and yet there the two differ ({figures}), although they mostly guess alike "
        f"({same}). Look for something besides the pooling that differs between these runs."
    )


def _averages_images(report: Report, name: str) -> bool | None:
    """Whether a run, or that of a rule, averages its images; None for files, which do not say."""
    scores = report.comparison.of(name)
    how = report.comparison.of(scores.rule_of or name).how
    return HEADS[how].averages if how in HEADS else None


def _rules_sentence(report: Report) -> str:
    (a, b), best = report.headline, _best_rule(report)
    if best is None:
        return ""
    gain = report.comparison.difference(best.name, b).change
    rest = report.comparison.difference(a, best.name).change
    text = (
        f"The best other rule on {b}'s own probabilities, {_label(best)}, changes "
        f"{points(gain.value)} points ({span(gain.ci95)}) without any training"
    )
    if report.difference.change.value > 0:
        text += f"; {a} is {points(rest.value)} points ({span(rest.ci95)}) above that rule"
    return text + "."
