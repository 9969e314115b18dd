"""What makes a directory that of a run: its configuration, and what the run started with."""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from product_mil.config import Config, differences
from product_mil.errors import UserError
from product_mil.files.package import checkout
from product_mil.files.whole import write_json
from product_mil.runs.directory import CONFIG_FILE, RUN_FILE, read_record, stored_config
from product_mil.train.record import marked

_VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "simplejpeg")


def refuse_another(config: Config, workdir: Path) -> None:
    """Refuse a directory that holds a run of another configuration."""
    stored = stored_config(workdir)
    different = [] if stored is None else differences(stored, config)
    if different:
        lines = "\n".join(f"  {line}" for line in different)
        raise UserError(
            f"{workdir} holds a run of another configuration; choose another --workdir, or "
            f"remove it. What differs:\n{lines}"
        )


def claim(config: Config, workdir: Path) -> None:
    """Write the configuration, by which the directory belongs to this run."""
    if not (workdir / CONFIG_FILE).exists():
        _write(workdir / CONFIG_FILE, marked(config.to_dict()))


def write_once(workdir: Path, record: Mapping[str, Any]) -> None:
    """Write what the run started with, or check that its data have not changed since."""
    path = workdir / RUN_FILE
    stored = read_record(path, "remove it, and it is written anew")
    if stored is not None:
        if stored.get("data_fingerprint") != record["data_fingerprint"]:
            raise UserError(
                f"the data changed since the run in {workdir} began; choose another --workdir"
            )
        return
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "git_revision": _git_revision(),
        **{name: version(name) for name in _VERSIONED},
    }
    categories = json.loads(record["categories"])
    _write(path, {**record, "categories": categories, "environment": environment})


def _write(path: Path, record: Mapping[str, Any]) -> None:
    try:
        write_json(path, record)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another "
            "--workdir"
        ) from None


def _git_revision() -> str | None:
    root = checkout()
    if root is None:  # installed; a repository around it is not ours
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
