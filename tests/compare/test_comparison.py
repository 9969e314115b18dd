import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from statsmodels.stats import contingency_tables, multitest

from product_mil.compare.answers import Answers, Entry, Questions
from product_mil.compare.json_file import comparison_values, pair_key
from product_mil.compare.statistics.comparison import compare
from product_mil.compare.statistics.confusion import confusion_matrix, confusions
from product_mil.compare.statistics.differences import control
from product_mil.compare.statistics.results import Control
from product_mil.inference.calibration_error import expected_calibration_error
from product_mil.sources.categories import Categories

N = 600


def reference_p(change: np.ndarray) -> float:
    table = [[0, (change == 1).sum()], [(change == -1).sum(), 0]]
    result: Any = contingency_tables.mcnemar(table, exact=True)
    return result.pvalue


def tree() -> Categories:
    names = [["clothes", "feet", "shoe"], ["clothes", "head", "hat"], ["food", "fruit", "apple"]]
    return Categories.from_json(
        '{"ids": [10, 20, 30], "names": ' + str(names).replace("'", '"') + "}"
    )


def questions(seed: int = 0) -> Questions:
    rng = np.random.default_rng(seed)
    return Questions(
        product_id=np.arange(N) * 3,
        category_id=rng.choice([10, 20, 30], N),
        num_images=rng.integers(1, 5, N).astype(np.int32),
        shares_image=rng.random(N) < 0.3,
    )


def answers(asked: Questions, share_right: float, seed: int) -> Answers:
    rng = np.random.default_rng(seed)
    right = rng.random(N) < share_right
    other = np.where(asked.category_id == 10, 20, 10)
    confidence = rng.uniform(0.3, 1.0, N).astype(np.float32)
    return Answers(
        guess=np.where(right, asked.category_id, other),
        in_top5=right | (rng.random(N) < 0.5),
        confidence=confidence,
        log_prob_true=np.log(np.where(right, confidence, 0.1)).astype(np.float32),
    )


def values_of(
    asked: Questions, entries: Sequence[Entry], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """As `comparison.json` has them."""
    return comparison_values(compare(asked, entries, pairs, tree()))


@pytest.fixture(scope="module")
def asked() -> Questions:
    return questions()


def test_values(asked: Questions) -> None:
    """Every number again with plain NumPy and statsmodels."""
    a, b = answers(asked, 0.7, 1), answers(asked, 0.55, 2)
    entries = [Entry("joint", (a,), "mean"), Entry("averaged", (b,), "probabilities")]
    found = values_of(asked, entries, [("joint", "averaged")])
    assert found["n"] == N
    right = {"joint": a.guess == asked.category_id, "averaged": b.guess == asked.category_id}
    for name, one in (("joint", a), ("averaged", b)):
        run = found["runs"][name]
        assert one.in_top5 is not None
        assert one.log_prob_true is not None
        assert one.confidence is not None
        expected = {
            "accuracy": right[name].mean(),
            "top5": one.in_top5.mean(),
            "nll": -one.log_prob_true.astype(np.float64).mean(),
            "calibration_error": expected_calibration_error(
                one.confidence.astype(np.float64), right[name]
            ),
        }
        assert {k: run[k] for k in expected} == pytest.approx(expected, abs=1e-9)
        for metric, value in expected.items():
            low, high = run[f"{metric}_ci95"]
            assert low < value < high, metric
        assert run["by_num_images"] == {
            str(k): {
                "n": (asked.num_images == k).sum(),
                "accuracy": right[name][asked.num_images == k].mean(),
                "accuracy_ci95": run["by_num_images"][str(k)]["accuracy_ci95"],
            }
            for k in range(1, 5)
        }
        bins = run["reliability"]["confidence"]
        assert sum(b["n"] for b in bins) == N
        gap = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / N
        assert gap == pytest.approx(run["calibration_error"], abs=1e-9)

    assert asked.shares_image is not None
    difference = found["difference"]["joint_minus_averaged"]
    change = right["joint"].astype(int) - right["averaged"]
    assert difference["value"] == pytest.approx(change.mean(), abs=1e-12)
    half = 1.96 * change.std() / np.sqrt(N)
    assert difference["ci95"] == pytest.approx(
        [change.mean() - half, change.mean() + half], abs=half * 0.1
    )
    fixed, broke = (change == 1).sum(), (change == -1).sum()
    assert (difference["fixed"], difference["broke"]) == (fixed, broke)
    assert difference["mcnemar_p"] == pytest.approx(reference_p(change), rel=1e-9)
    assert difference["p"] == difference["mcnemar_p"]  # of one seed
    assert difference["holm_p"] == difference["p"]  # of one pair
    assert asked.num_images is not None
    several = asked.num_images > 1
    by_several = difference["by_several_images"]
    assert [by_several[k]["n"] for k in ("one", "several")] == [(~several).sum(), several.sum()]
    assert by_several["several"]["value"] == pytest.approx(change[several].mean(), abs=1e-12)
    assert difference["nll"]["value"] == pytest.approx(
        found["runs"]["joint"]["nll"] - found["runs"]["averaged"]["nll"]
    )
    assert difference["by_shared_image"]["shares_none"]["n"] == (~asked.shares_image).sum()

    by_level1 = difference["by_level1"]
    assert list(by_level1) == ["clothes", "food"]
    clothes = asked.category_id < 30
    assert by_level1["clothes"]["n"] == clothes.sum()
    assert by_level1["clothes"]["value"] == pytest.approx(change[clothes].mean(), abs=1e-12)
    p_values = [reference_p(change[rows]) for rows in (clothes, ~clothes)]
    assert [g["mcnemar_p"] for g in by_level1.values()] == pytest.approx(p_values, rel=1e-9)
    corrected: Any = multitest.multipletests(p_values, method="holm")[1]
    assert [g["holm_p"] for g in by_level1.values()] == pytest.approx(corrected, rel=1e-9)
    assert '"joint_minus_averaged"' in json.dumps(found, allow_nan=False)


def test_two_copies_differ_by_exactly_nothing(asked: Questions) -> None:
    one = answers(asked, 0.6, 1)
    pair = [Entry("a", (one,), "mean"), Entry("b", (one,), "mean")]
    found = values_of(asked, pair, [("a", "b")])["difference"]["a_minus_b"]
    assert (found["value"], found["ci95"], found["mcnemar_p"]) == (0, [0, 0], 1)
    assert (found["nll"]["value"], found["nll"]["ci95"]) == (0, [0, 0])
    assert found["products_needed"] is None
    for group in ("by_num_images", "by_level1", "by_shared_image"):
        for values in found[group].values():
            assert (values["value"], values["ci95"], values["mcnemar_p"]) == (0, [0, 0], 1)


def test_seeds(asked: Questions) -> None:
    """Means over seeds, their spread, one pooled test, and the exact ones of each pair of seeds."""
    a = tuple(answers(asked, share, seed) for share, seed in ((0.7, 1), (0.6, 2), (0.72, 3)))
    b = tuple(answers(asked, 0.6, seed) for seed in (4, 5, 6))
    pair = [Entry("a", a, "mean"), Entry("b", b, "probabilities")]
    found = values_of(asked, pair, [("a", "b")])
    of_a, of_b = ([(s.guess == asked.category_id).mean() for s in seeds] for seeds in (a, b))
    run = found["runs"]["a"]
    assert run["accuracy"] == pytest.approx(np.mean(of_a))
    assert run["between_seeds"]["accuracy"]["values"] == pytest.approx(of_a)
    spread = run["between_seeds"]["accuracy"]["standard_deviation"]
    assert spread == pytest.approx(np.std(of_a, ddof=1))
    difference = found["difference"]["a_minus_b"]
    assert difference["value"] == pytest.approx(np.mean(of_a) - np.mean(of_b))
    by_seed = difference["between_seeds"]
    assert by_seed["values"] == pytest.approx(np.subtract(of_a, of_b))
    assert difference["mcnemar_p"] == max(by_seed["mcnemar_p"])
    assert len(set(by_seed["mcnemar_p"])) == 3
    # Products and seeds are drawn: both variances, added by hand.
    change = np.stack(
        [
            (x.guess == asked.category_id).astype(int) - (y.guess == asked.category_id)
            for x, y in zip(a, b, strict=True)
        ]
    )
    half = 1.96 * np.hypot(change.mean(0).std() / N**0.5, change.mean(1).std(ddof=1) / 3**0.5)
    low, high = difference["ci95"]
    assert high - low == pytest.approx(2 * half, rel=0.25)
    groups = [difference, *difference["by_level1"].values(), *difference["by_num_images"].values()]
    for one in groups:
        assert (one["p"] < 0.05) == (one["ci95"][0] > 0 or one["ci95"][1] < 0)
        assert one["p"] != one["mcnemar_p"]
    assert run["accuracy_ci95"][1] - run["accuracy_ci95"][0] > 2 * 1.96 * (0.67 * 0.33 / N) ** 0.5
    single = change[:, asked.num_images == 1]
    one_image = difference["by_num_images"]["1"]
    assert one_image["value"] == pytest.approx(single.mean(), abs=1e-12)
    half = 1.96 * np.hypot(single.mean(0).std() / single.shape[1] ** 0.5,
                           single.mean(1).std(ddof=1) / 3**0.5)  # fmt: skip
    assert np.ptp(one_image["ci95"]) == pytest.approx(2 * half, rel=0.25)


@pytest.mark.parametrize(("changed", "p"), [(0, 1), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_a_handful_of_changes(changed: int, p: float) -> None:
    """All for the better, in every seed: no surer than a sign test, and the interval agrees."""
    few = Questions(np.arange(20), np.full(20, 10), None)
    b = Answers(np.full(20, 20))
    a = Answers(np.where(np.arange(20) < changed, 10, 20))
    pair = [Entry("a", (a,) * 3, "mean"), Entry("b", (b,) * 3, "probabilities")]
    found = values_of(few, pair, [("a", "b")])["difference"]["a_minus_b"]
    assert found["p"] == pytest.approx(p)
    assert found["value"] == pytest.approx(changed / 20)
    assert (found["ci95"][0] > 0) == (p < 0.05)


def test_intervals_hold_only_what_is_possible() -> None:
    """Seeds that differ widely: a share stays within 0 and 1, a difference within -1 and 1."""
    few = Questions(np.arange(50), np.full(50, 10), np.full(50, 1, np.int32))

    def seeds(*numbers_right: int) -> tuple[Answers, ...]:
        return tuple(
            Answers(
                np.where(np.arange(50) < right, 10, 20),
                in_top5=np.arange(50) < right,
                confidence=np.full(50, float(right < 25), np.float32),
                log_prob_true=np.full(50, -0.001 * (50 - right), np.float32),
            )
            for right in numbers_right
        )

    good, bad = Entry("a", seeds(50, 50, 20), "mean"), Entry("b", seeds(0, 0, 30), "mean")
    found = values_of(few, [good, bad], [("a", "b")])
    a, b = found["runs"]["a"], found["runs"]["b"]
    for metric in ("accuracy", "top5"):
        assert a[metric] == pytest.approx(0.8)
        assert a[f"{metric}_ci95"][1] == 1
        assert b[f"{metric}_ci95"][0] == 0
    assert a["by_num_images"]["1"]["accuracy_ci95"][1] == 1
    assert b["calibration_error_ci95"][1] == 1
    assert a["nll_ci95"][0] == 0
    difference = found["difference"]["a_minus_b"]
    assert difference["ci95"][1] == 1
    assert difference["by_num_images"]["1"]["ci95"][1] == 1
    assert difference["top5"]["ci95"][1] == 1
    # A likelihood has no upper bound, and a difference may be below 0.
    assert difference["nll"]["ci95"][0] < difference["nll"]["value"] < 0


def test_fewer_seeds_of_one(asked: Questions) -> None:
    """They are no pairs: each draws its own, in all products and in groups alike."""
    a = tuple(answers(asked, share, seed) for share, seed in ((0.7, 1), (0.6, 2), (0.72, 3)))
    b = (answers(asked, 0.6, 4),)
    pair = [Entry("a", a, "mean"), Entry("b", b, "probabilities")]
    everything = replace(asked, num_images=np.full(N, 2, np.int32))
    found = values_of(everything, pair, [("a", "b")])["difference"]["a_minus_b"]
    of_a, of_b = ([(s.guess == asked.category_id).mean() for s in seeds] for seeds in (a, b))
    assert found["value"] == pytest.approx(np.mean(of_a) - of_b[0])
    group = found["by_num_images"]["2"]
    assert group["value"] == pytest.approx(found["value"])
    assert group["ci95"] == pytest.approx(found["ci95"], abs=0.01)
    assert "between_seeds" not in found


def test_control(asked: Questions) -> None:
    """Alike on one image: the control holds; a few other guesses there, and it is none."""
    base = answers(asked, 0.6, 1)
    better = answers(asked, 0.9, 2)
    single = asked.num_images == 1
    same_there = replace(base, guess=np.where(single, base.guess, better.guess))

    def looked_at(a: Answers, b: Answers) -> Control:
        pair = [Entry("a", (a,), "mean"), Entry("b", (b,), "probabilities")]
        found = compare(asked, pair, [("a", "b")], tree()).difference("a", "b")
        said = control(asked, pair[0], pair[1], found)
        assert said is not None
        assert said.change.n == single.sum()
        return said

    said = looked_at(same_there, base)
    assert (said.holds, said.treats_alike, said.same_guess, said.change.value) == (True, True, 1, 0)
    said = looked_at(better, base)
    assert (said.holds, said.treats_alike) == (False, False)
    assert said.same_guess == pytest.approx((better.guess == base.guess)[single].mean())
    # Alike on 96 %, yet every change is for the better.
    wrong = np.flatnonzero(single & (base.guess != asked.category_id))[: round(0.04 * single.sum())]
    guess = base.guess.copy()
    guess[wrong] = asked.category_id[wrong]
    said = looked_at(replace(base, guess=guess), base)
    assert (said.holds, said.treats_alike) == (False, True)
    unknown = replace(asked, num_images=None)
    pair = [Entry("a", (base,), "mean"), Entry("b", (base,), "probabilities")]
    found = compare(unknown, pair, [("a", "b")], tree()).difference("a", "b")
    assert "by_num_images" not in found.groups
    assert control(unknown, pair[0], pair[1], found) is None


def test_a_run_may_have_any_name(asked: Questions) -> None:
    """Also one that looks like a pair, or like a word of the file."""
    names = ("a_minus_b", "a", "b_minus_a", "own", "total", "b", "x_minus", 'say "minus"')
    entries = [
        Entry(name, (answers(asked, 0.5 + 0.05 * place, place),), "mean")
        for place, name in enumerate(names)
    ]
    pairs = [(x.name, y.name) for x, y in itertools.combinations(entries, 2)]
    comparison = compare(asked, entries, pairs, tree())
    found = comparison_values(comparison)
    assert list(found["runs"]) == list(names)
    assert [(one["a"], one["b"]) for one in found["difference"].values()] == pairs
    accuracy = {name: run["accuracy"] for name, run in found["runs"].items()}
    for one in found["difference"].values():
        assert one["value"] == pytest.approx(accuracy[one["a"]] - accuracy[one["b"]], abs=1e-12)
    assert comparison.difference("a_minus_b", "a").a == "a_minus_b"
    # Keys of plain names are what they were; two pairs never share one.
    assert pair_key("joint", "averaged/vote") == "joint_minus_averaged/vote"
    assert pair_key("a_minus_b", "a") == '"a_minus_b"_minus_a'
    assert pair_key("a", "b_minus_a") == 'a_minus_"b_minus_a"'


def test_confusions() -> None:
    asked = Questions(np.arange(6), np.array([10, 10, 10, 20, 20, 30]), None)
    a = Answers(np.array([20, 20, 10, 20, 10, 30]))
    b = Answers(np.array([20, 30, 30, 20, 20, 30]))
    assert confusions(asked, (a, b)) == [(10, 20, 2, 1), (10, 30, 0, 2), (20, 10, 1, 0)]
    np.testing.assert_array_equal(confusion_matrix(asked, b, [20, 10]), [[2, 0, 0], [1, 0, 2]])
