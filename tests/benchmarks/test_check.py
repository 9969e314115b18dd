import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FAKE = """
import json, sys
from pathlib import Path
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(
    json.dumps({"machine": "m", "ratios": json.loads(sys.argv[1])})
)
"""


def check(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(directory / "benchmarks" / "check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_slower_by_more_than_a_tenth_is_seen(tmp_path: Path) -> None:
    """With a benchmark that prints what it is asked to."""
    parts = tmp_path / "benchmarks" / "parts"
    parts.mkdir(parents=True)
    for package in (parts.parent, parts):
        (package / "__init__.py").touch()
    (parts.parent / "check.py").write_bytes((BENCHMARKS / "check.py").read_bytes())
    (parts / "fake.py").write_text(FAKE)
    reference = parts.parent / "ratios.json"
    for now, status, line in (
        (1.82, 0, "ok      speed: 1.82, was 2.00 (-9%)"),
        (1.78, 1, "SLOWER  speed: 1.78, was 2.00 (-11%)"),
        (3.0, 0, "ok      speed: 3.00, was 2.00 (+50%)"),
    ):
        name = f'fake {{"speed":{now}}}'
        reference.write_text(json.dumps({name: {"machine": "m", "ratios": {"speed": 2.0}}}))
        done = check(tmp_path)
        assert done.returncode == status, done.stderr
        assert done.stdout.splitlines() == [f"{name}: m", f"  {line}"]
    name = 'fake {"other":1.0}'
    reference.write_text(json.dumps({name: {"machine": "m", "ratios": {"speed": 2.0}}}))
    done = check(tmp_path)
    assert done.returncode == 1
    assert "MISSING speed: was 2.00" in done.stdout
    assert "new     other: 1.00" in done.stdout
    assert check(tmp_path, name, "--update").returncode == 0
    assert json.loads(reference.read_text())[name]["ratios"] == {"other": 1.0}
    assert check(tmp_path).returncode == 0


def test_the_committed_ratios_are_of_benchmarks_that_exist() -> None:
    stored = json.loads((BENCHMARKS / "ratios.json").read_text())
    assert {name.split()[0] for name in stored} >= {"index", "loader", "packing"}
    for name, found in stored.items():
        assert (BENCHMARKS / "parts" / f"{name.split()[0]}.py").is_file()
        assert found["machine"]
        assert all(ratio > 0 for ratio in found["ratios"].values())
