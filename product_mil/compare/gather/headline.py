"""Which entries are compared: the reference, the headline and all pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from product_mil.compare.answers import Entry
from product_mil.ensemble.rule_names import IMAGE_RULES
from product_mil.errors import UserError
from product_mil.files.hub import local_directory
from product_mil.model.registry import HEADS, head
from product_mil.runs.directory import stored_config
from product_mil.runs.pretrained import FILES, description_in, is_pretrained


def averages(pooling: str) -> bool:
    """Whether other rules can be tried on the images' probabilities."""
    return pooling in HEADS and HEADS[pooling].averages


def entry_names(poolings: Mapping[str, str]) -> list[str]:
    """The names of all entries: each variant, and after an averaging one its `variant/rule`s."""
    found = []
    for name, pooling in poolings.items():
        rules = IMAGE_RULES if averages(pooling) else ()
        found += [name, *(f"{name}/{rule}" for rule in rules)]
    return found


def pooling_of(workdir: Path) -> str:
    """The pooling of a run or a pretrained directory; empty where there is neither.

    Raises:
        UserError: the head of the run is not registered.
    """
    directory = local_directory(workdir, FILES)
    if is_pretrained(directory):
        stored = description_in(directory).record["config"]
    else:
        stored = stored_config(directory) or {}
    name = (stored.get("model") or {}).get("pooling", "")
    try:
        return name and head(name).name
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from None


def headline_of(poolings: Mapping[str, str], reference: str | None = None) -> tuple[str, str]:
    """The first variant, and the reference that it is compared with.

    Without `reference`, that is the last averaging variant, or else the last variant.

    Raises:
        UserError: no entry has the name of the reference.
    """
    if reference is None:
        averaging = [name for name, pooling in poolings.items() if averages(pooling)]
        reference = (averaging or list(poolings))[-1]
    names = entry_names(poolings)
    if reference not in names:
        raise UserError(f"--reference {reference}: there is no such variant or rule; there are "
                        + ", ".join(names))  # fmt: skip
    own = reference.partition("/")[0]
    return next(name for name in poolings if name != own), reference


def all_pairs(entries: Sequence[Entry], reference: str) -> list[tuple[str, str]]:
    """Each pair of entries once, as (a, b) for the difference a minus b.

    b is the reference if it is one of the two. Otherwise b is the run of the rule a, or the rule if
    a is another run, or the later one of two runs or two rules.
    """
    return [
        (b.name, a.name) if _is_second(a, b, reference) else (a.name, b.name)
        for i, a in enumerate(entries)
        for b in entries[i + 1 :]
    ]


def _is_second(a: Entry, b: Entry, reference: str) -> bool:
    """Whether the earlier entry a comes second in a pair with b."""
    if reference in (a.name, b.name):
        return a.name == reference
    if a.name == b.rule_of:
        return True
    return a.rule_of is not None and b.rule_of is None
