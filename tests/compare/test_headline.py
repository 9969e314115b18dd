from pathlib import Path

import numpy as np
import pytest

from product_mil.compare.answers import Answers, Entry
from product_mil.compare.gather.headline import all_pairs, entry_names, headline_of, pooling_of
from product_mil.errors import UserError

POOLINGS = {"averaged": "probabilities", "mean": "mean", "file": "from a file"}


def test_headline() -> None:
    assert headline_of(POOLINGS) == ("mean", "averaged")
    assert headline_of({"mean": "mean", "max": "max"}) == ("mean", "max")
    assert headline_of(POOLINGS, "file") == ("averaged", "file")
    assert headline_of(POOLINGS, "averaged") == ("mean", "averaged")
    # A rule's own run says little of it: the first of the others is compared.
    assert headline_of(POOLINGS, "averaged/vote") == ("mean", "averaged/vote")
    two = {"averaged": "probabilities", "second": "probabilities"}
    assert headline_of(two, "averaged/vote") == ("second", "averaged/vote")


@pytest.mark.parametrize("name", ["mean/vote", "vote", "averaged/none", "", "averaged/"])
def test_an_unknown_reference(name: str) -> None:
    with pytest.raises(UserError) as error:
        headline_of(POOLINGS, name)
    assert str(error.value) == (
        f"--reference {name}: there is no such variant or rule; there are averaged, "
        "averaged/geometric_mean, averaged/maximum, averaged/vote, averaged/first_image, mean, file"
    )


@pytest.mark.parametrize("reference", entry_names(POOLINGS))
def test_every_pair_once(reference: str) -> None:
    names = entry_names(POOLINGS)
    nothing = (Answers(np.zeros(1, np.int64)),)
    entries = [
        Entry(name, nothing, "", name.partition("/")[0] if "/" in name else None) for name in names
    ]
    pairs = all_pairs(entries, reference)
    assert len(pairs) == len(names) * (len(names) - 1) / 2
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert sum(b == reference for _, b in pairs) == len(names) - 1
    others = [pair for pair in pairs if reference not in pair]
    for a, b in others:
        if a.startswith(f"{b}/"):
            continue  # a rule minus its own run
        assert not b.startswith(f"{a}/")
        assert not ("/" in a and "/" not in b)
        if ("/" in a) == ("/" in b):
            assert names.index(a) < names.index(b)


def test_pooling_of(tmp_path: Path, trained: Path) -> None:
    assert pooling_of(trained) == "gated_attention"
    assert pooling_of(tmp_path) == ""
