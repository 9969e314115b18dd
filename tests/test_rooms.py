"""Every file imports from lower ranks or from its own room only (the table of rooms)."""

import ast
from pathlib import Path

import pytest

import product_mil

PACKAGE = Path(product_mil.__file__).parent
ROOT = PACKAGE.parent
RANKS = {
    0: (
        "__init__",
        "batch",
        "cache",
        "config",
        "console",
        "errors",
        "files",
        "foreign",
        "formats",
        "limits",
        "predictions",
        "prediction_files",
        "workdir",
    ),
    1: ("data", "model"),
    2: ("train",),
    3: (
        "predict",
        "ensemble",
        "member_files",
        "parquet_member",
        "file_ensemble",
        "backoff",
        "compare",
    ),
    4: (
        "build",
        "contest",
        "embed",
        "flags",
        "head_init",
        "inspection",
        "known_products",
        "ladder",
        "members",
        "outputs",
        "run",
        "trained",
        "warm_start",
        "main",
        "tools",
    ),
}
RANK_OF = {name: rank for rank, names in RANKS.items() for name in names}
DIRECTORIES = ("data", "model", "train", "compare")
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py")])


def imported(path: Path) -> set[str]:
    """Dotted names of all imports of a file, also those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    parts = (
        path.relative_to(PACKAGE).with_suffix("").parts if PACKAGE in path.parents else ("tools",)
    )
    return parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_in_rank(path: Path) -> None:
    own = room(path)
    assert own in RANK_OF, f"give {own} a rank"
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package != "product_mil":
            continue
        other = rest.split(".")[0]
        other = other if other in RANK_OF else "__init__"  # a name of the package itself
        same = own == other or (RANK_OF[own] == RANK_OF[other] and own not in DIRECTORIES)
        assert RANK_OF[other] < RANK_OF[own] or same, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    used = {name.split(".")[0] for name in imported(path)}
    if room(path) == "data":
        assert not used & {"jax", "flax", "optax", "orbax"}, "data/ uses no JAX"
        assert "grain" not in used or path.name in ("loader.py", "embeddings.py")
    reads_files = ("weights.py", "weight_files.py", "published.py", "torch_pickle.py")
    if room(path) == "model" and path.name not in reads_files:
        assert not used & {"pathlib", "os", "io", "h5py", "pooch"}, "model/ reads no file"
    if room(path) not in RANKS[4] and path.name != "runtime.py":
        assert "absl" not in used
        if path.name not in ("config.py", "limits.py"):
            assert "product_mil.config" not in {n.rpartition(".")[0] for n in imported(path)}
