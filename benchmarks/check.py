"""Is anything slower than it was? Compares ratios of a fresh run with benchmarks/ratios.json.

    python benchmarks/check.py [index loader packing ...] [--smoke] [--update]

Runs the benchmarks named (by default all that ratios.json has), prints a line for each ratio, and
ends with status 1 where one fell by more than 10 %. Ratios are ours to the rival's in the same run,
so another machine may be compared; `--update` writes what was measured as the new reference.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "benchmarks" / "ratios.json"
TOLERANCE = 0.10


def compare(reference: dict[str, float], found: dict[str, float]) -> tuple[list[str], bool]:
    """A line for each ratio of either side, and whether none fell, or is missing."""
    lines, fine = [], True
    for name in [*reference, *(name for name in found if name not in reference)]:
        before, now = reference.get(name), found.get(name)
        if now is None:
            lines.append(f"MISSING {name}: was {before:.2f}, not measured now")
            fine = False
        elif before is None:
            lines.append(f"new     {name}: {now:.2f}")
        else:
            slower = now < before * (1 - TOLERANCE)
            fine &= not slower
            verdict = "SLOWER " if slower else "ok     "
            lines.append(f"{verdict} {name}: {now:.2f}, was {before:.2f} ({now / before - 1:+.0%})")
    return lines, fine


def measured(command: list[str]) -> dict:
    """What a benchmark wrote."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ratios.json"
        script = [sys.executable, "-m", f"benchmarks.parts.{command[0]}", *command[1:]]
        done = subprocess.run(
            [*script, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare with the ratios of an earlier run")
    parser.add_argument("benchmarks", nargs="*", help="as ratios.json names them; default: all")
    parser.add_argument("--reference", type=Path, default=REFERENCE)
    parser.add_argument("--smoke", action="store_true", help="tiny: whether it runs, not how fast")
    parser.add_argument("--update", action="store_true", help="write the reference anew")
    args = parser.parse_args()
    stored = {}
    if args.reference.exists():
        stored = json.loads(args.reference.read_text(encoding="utf-8"))
    all_fine = True
    for name in args.benchmarks or list(stored):
        smoke = ["--smoke", "--rounds", "1"] if args.smoke else []
        found = measured([*name.split(), *smoke])
        lines, fine = compare(stored.get(name, {}).get("ratios", {}), found["ratios"])
        print(f"{name}: {found['machine']}", *lines, sep="\n  ", flush=True)
        all_fine &= fine
        if args.update:
            stored[name] = found
            args.reference.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all_fine or args.update else 1)


if __name__ == "__main__":
    main()
