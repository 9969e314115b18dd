"""What the benchmarks share: rivals timed in turns, the machine in a line, ratios in a file."""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple


class Best(NamedTuple):
    """The best of several rounds, each taken by itself."""

    wall_s: float
    cpu_s: float  # of all threads of the process, which a busy machine disturbs less


def sets_parser(files: int) -> argparse.ArgumentParser:
    """For those that train on data sets of one's own: a name and so many files each."""
    found = argparse.ArgumentParser()
    add_net(found)
    found.add_argument("--workdir", type=Path, required=True)
    found.add_argument("--set", nargs=1 + files, action="append", required=True)
    found.add_argument("--seeds", default="0,1,2")
    return found


def add_net(parser: argparse.ArgumentParser) -> None:
    """Flags that put another backbone into a configuration."""
    parser.add_argument("--net", help="backbone; default: the configuration's")
    parser.add_argument("--weights", default="imagenet", help="or a file of that net's weights")


def with_net(model: Any, arguments: argparse.Namespace) -> Any:
    """The `ModelConfig` of a configuration with the backbone that `--net` and `--weights` name."""
    net = arguments.net or model.backbone
    return dataclasses.replace(model, backbone=net, weights=arguments.weights)


def in_turns(cases: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Best]:
    """Run every case once a round, so that all meet the same machine; one round more warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, run in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Best(min(wall for wall, _ in of[1:]), min(cpu for _, cpu in of[1:]))
        for name, of in times.items()
    }


def machine(*packages: str) -> str:
    """Date, processor, cores, load and versions."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    parts = [
        str(datetime.date.today()),
        cpu,
        f"{os.cpu_count()} cores",
        f"load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}",
    ]
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"no {package}")
    return ", ".join(parts)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_of(rows: list[dict[str, Any]], cell: Callable[[Any], str]) -> str:
    """A table of all that the rows have, in the order of its first appearance."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    return table(header, [[cell(row.get(key, "")) for key in header] for row in rows])


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=5, help="the best of so many counts")
    made.add_argument("--smoke", action="store_true", help="tiny: whether it runs, not how fast")
    made.add_argument("--json", type=Path, help="also write the ratios to this file")
    return made


def report(
    arguments: argparse.Namespace, about: str, text: str, ratios: Mapping[str, float]
) -> None:
    """Print, and write the ratios (ours by the rival's: more is better) for check.py."""
    print(f"\n{about}\n\n{text}")
    if arguments.json:
        found = {"machine": about, "ratios": {k: round(v, 4) for k, v in ratios.items()}}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
