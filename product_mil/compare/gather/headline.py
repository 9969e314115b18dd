"""Who is compared with whom: the reference, the headline and all pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from product_mil.compare.answers import Contestant
from product_mil.ensemble.rule_names import IMAGE_RULES
from product_mil.errors import UserError
from product_mil.model.registry import HEADS, head
from product_mil.runs.directory import stored_config


def averages(pooling: str) -> bool:
    """Whether other rules can be tried on the images' probabilities."""
    return pooling in HEADS and HEADS[pooling].averages


def contestant_names(poolings: Mapping[str, str]) -> list[str]:
    """Every variant, and after an averaging one each of its rules as `variant/rule`."""
    found = []
    for name, pooling in poolings.items():
        rules = IMAGE_RULES if averages(pooling) else ()
        found += [name, *(f"{name}/{rule}" for rule in rules)]
    return found


def pooling_of(workdir: Path) -> str:
    """The pooling of a run; empty where the directory holds none.

    Raises:
        UserError: its head is not registered here.
    """
    name = ((stored_config(workdir) or {}).get("model") or {}).get("pooling", "")
    try:
        return name and head(name).name
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from None


def headline_of(poolings: Mapping[str, str], reference: str | None = None) -> tuple[str, str]:
    """The first variant, and the reference that it is compared with.

    Without one it is the last averaging variant, or else the last variant.

    Raises:
        UserError: nobody has the name of the reference.
    """
    if reference is None:
        averaging = [name for name, pooling in poolings.items() if averages(pooling)]
        reference = (averaging or list(poolings))[-1]
    names = contestant_names(poolings)
    if reference not in names:
        raise UserError(f"--reference {reference}: there is no such variant or rule; there are "
                        + ", ".join(names))  # fmt: skip
    own = reference.partition("/")[0]
    return next(name for name in poolings if name != own), reference


def all_pairs(contestants: Sequence[Contestant], reference: str) -> list[tuple[str, str]]:
    """Each pair once.

    The reference comes second, then a rule's own run, then a rule, then the later variant.
    """
    return [
        (b.name, a.name) if _is_second(a, b, reference) else (a.name, b.name)
        for i, a in enumerate(contestants)
        for b in contestants[i + 1 :]
    ]


def _is_second(a: Contestant, b: Contestant, reference: str) -> bool:
    """Whether the earlier of two comes second."""
    if reference in (a.name, b.name):
        return a.name == reference
    if a.name == b.rule_of:
        return True
    return a.rule_of is not None and b.rule_of is None
