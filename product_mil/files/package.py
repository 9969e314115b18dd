"""The configurations that come with the package, in a checkout or installed."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """The checkout that this package runs from, or None where it is installed."""
    return None if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent


def packaged_configurations() -> dict[str, Path]:
    """The configuration files that come with the package, by name."""
    files = ((checkout() or _PACKAGE) / "configs").glob("*.py")
    return {path.stem: path for path in sorted(files)}
