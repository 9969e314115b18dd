"""What a net starts from: `config.model.weights` parsed into what it means."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Random:
    """Random numbers, by the run's seed."""


@dataclass(frozen=True)
class Published:
    """The weights that are published for the backbone, trained on ImageNet."""


@dataclass(frozen=True)
class FromFile:
    """A weights file, which may not be there."""

    path: Path


@dataclass(frozen=True)
class FromRun:
    """An earlier run or pretrained directory, or `hf://owner/name`, a model of the hub."""

    workdir: Path


Start = Random | Published | FromFile | FromRun


def start_of(text: str) -> Start:
    """Nothing is random, `imagenet` published, a directory or `hf://` a run, all else a file."""
    if not text:
        return Random()
    if text == "imagenet":
        return Published()
    path = Path(text).expanduser()
    return FromRun(path) if text.startswith("hf://") or path.is_dir() else FromFile(path)
