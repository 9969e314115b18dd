"""What of gpu.py needs no GPU: the processes of its parts, and the targets."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.on_gpu.checks import distance
from benchmarks.on_gpu.hlo_traffic import Kernel
from benchmarks.on_gpu.jobs import rows_of
from benchmarks.on_gpu.profile import rows_of_kernels
from benchmarks.on_gpu.targets import targets


def rows(script: str, box_s: float = 30.0) -> list[dict]:
    return list(rows_of([sys.executable, "-c", script], box_s, {"PART": "7"}))


def test_rows_come_with_the_reason_of_an_end_before_time() -> None:
    said = "import os; print('noise'); print('{\"what\": ' + os.environ['PART'] + '}', flush=True);"
    assert rows(said) == [{"what": 7}]
    assert rows(said + "raise SystemExit('out of memory')") == [
        {"what": 7},
        {"what": "failed (1): out of memory"},
    ]
    assert rows(said + "os.abort()")[1] == {"what": "failed (-6): no word"}
    stack = "import sys; print('Check failed: 1 == 2\\n  @ main()', file=sys.stderr); os.abort()"
    assert rows(said + stack)[1] == {"what": "failed (-6): Check failed: 1 == 2"}


@pytest.mark.slow
def test_a_part_that_hangs_ends_with_its_children(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time, pathlib;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid));"
        "print('{\"what\": 1}', flush=True); time.sleep(60)"
    )
    started = time.monotonic()
    assert rows(script, 3.0) == [{"what": 1}, {"what": "stopped after 3 s"}]
    assert time.monotonic() - started < 30
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        status = Path(f"/proc/{child}/stat")
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return  # dead, and not yet collected
        time.sleep(0.1)
    pytest.fail("the child still runs")


def test_targets_stand_beside_what_was_found() -> None:
    net = {"backbone": "inception_v3", "batch": 512}
    results = {
        "checks": [{"what": "a", "met": "yes"}, {"what": "b", "met": "no"}, {"what": "stopped"}],
        "nets": [
            {"what": "compiling 4 nets", "seconds": 9.0},
            {**net, "what": "forward", "images_per_s": 40_000.0, "of_roofline": 0.5},
            {**net, "what": "training step", "images_per_s": 18_000.0, "of_roofline": 0.7},
        ],
        "rivals": [
            {**net, "what": "training step, PyTorch eager", "images_per_s": 9_000.0},
            {**net, "what": "training step, PyTorch compiled", "images_per_s": 12_000.0},
            {"backbone": "xception", "what": "stopped after 60 s"},
        ],
        "loader": [
            {"what": "simplejpeg alone (floor)", "images_per_s": 40_000.0},
            {"what": "ours", "images_per_s": 30_000.0},
        ],
        "gpu decode": [
            {"what": "kernels: 3 of 512 not decoded"},
            {"what": "JPEG engines", "images_per_s": 45_000.0},
        ],
        "end to end": [{"what": "prediction", "images_per_s": 27_000.0}],
    }
    found = {row["what"]: (row.get("found"), row.get("met")) for row in targets(results)}
    assert found == {
        "checks: within their limits": (1, "no"),
        "inception_v3, forward: of its roofline": (0.5, "no"),
        "inception_v3, training step: of its roofline": (0.7, "yes"),
        "inception_v3, training step: times PyTorch's": (1.5, "yes"),
        "Inception V3 step, images/s": (18_000.0, "yes"),
        "loader: of the cores' decode rate": (0.75, "no"),
        "decoding on the GPU: times the loader": (1.5, "yes"),
        "prediction: of the slower of loader and forward": (0.9, "yes"),
        "prediction, images/s: the test set in 2 minutes": (27_000.0, "yes"),
    }
    assert all("found" not in row for row in targets({}))


def test_answers_are_as_far_as_their_furthest_array_and_nan_is_infinitely_far() -> None:
    one, other = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    assert distance([one, other], [one, one]) == pytest.approx(0.1)
    assert distance([np.zeros(2)], [np.zeros(2)]) == 0
    assert distance([np.array([np.nan, 4.0])], [one]) == np.inf


def test_a_profile_shows_first_what_takes_longer_than_its_memory_traffic() -> None:
    kernels = [
        Kernel("fusion", 2e9, 0, 1, "quick", "bf16[8]"),
        Kernel("fusion", 1e9, 0, 1, "slow", "bf16[4]"),
        Kernel("copy", 1e9, 0, 1, "not in the profile", "bf16[2]"),
    ]
    spent_ms = {"quick": 1.5, "slow": 4.0, "other": 0.5}
    rows = list(rows_of_kernels("net", kernels, spent_ms, 2e12))
    found = [(row["what"], row["ms"], row.get("beyond_memory_ms")) for row in rows]
    assert found == [
        ("all kernels", 6.0, None),
        ("(of no known kernel)", 0.5, None),
        ("fusion", 5.5, 4.0),
        ("slow bf16[4]", 4.0, 3.5),
        ("quick bf16[8]", 1.5, 0.5),
    ]
    assert rows[2]["gbyte_per_s"] == pytest.approx(3 / 0.0055)
