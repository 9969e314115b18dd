import os
from pathlib import Path

import bson
import pytest

from product_mil.errors import UserError
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.names import named, named_files

ODD = [
    "a b.bson",
    " leading and trailing .bson ",
    "a,b.bson",
    "a,b,c,d.bson",
    "[a].bson",
    "a*?.bson",
    "~a.bson",
    "~",
    "-a.bson",
    "a:b=c;d.bson",
    "line\nbreak.bson",
    "quote'\"\\.bson",
    "é日本.bson",
    os.fsdecode(b"latin-\xe9.bson"),
    "x" * 250,
    "x" * 255,
    "..bson",
    "%s{0}$HOME.bson",
]


def write(path: Path, number: int = 1) -> Path:
    path.write_bytes(bson.encode({"_id": number, "category_id": 5, "imgs": [{"picture": b"x"}]}))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ODD)
def test_any_name_that_the_system_allows(
    here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, relative or not, among others, and as the name of a directory."""
    write(here / name)
    write(here / "other.bson", 2)
    folder = here / "folder" / name
    folder.mkdir(parents=True)
    write(folder / "in.bson", 3)
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(here / "cache"))
    for spec in (name, f"{here}/{name}", [here / name], f"./{name}"):
        assert open_catalogue(spec).product_id.tolist() == [1]
    assert open_catalogue([name, "other.bson"]).product_id.tolist() == [1, 2]
    if name == name.strip():  # between commas, spaces belong to nothing
        for spec in (f"{name},other.bson", f"./{name}, other.bson", f"{name},other.bson,"):
            assert open_catalogue(spec).product_id.tolist() == [1, 2]
    for spec in (f"folder/{name}/in.bson", f"folder/{name}/*.bson", f"{folder}/i?.bson"):
        assert open_catalogue(spec).product_id.tolist() == [3]


def test_a_long_list_with_commas(here: Path) -> None:
    names = [f"part-{i:04}.bson" for i in range(300)]
    for number, name in enumerate(names):
        write(here / name, number)
    assert named_files(",".join(names)) == [Path(name) for name in names]


def test_what_exists_as_written_is_meant(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "home").mkdir()
    monkeypatch.setenv("HOME", str(here / "home"))
    write(here / "home" / "a.bson")
    assert named_files("~/a.bson") == [here / "home" / "a.bson"]
    assert named_files("~/*.bson") == [here / "home" / "a.bson"]
    (here / "~").mkdir()
    write(here / "~" / "a.bson")
    assert named_files("~/a.bson") == [Path("~/a.bson")]
    for name in ("a1.bson", "a[1].bson"):
        write(here / name)
    assert named_files("a[1].bson") == [Path("a[1].bson")]
    assert named_files("a[12].bson") == [Path("a1.bson")]


def test_through_links(here: Path) -> None:
    (here / "data").mkdir()
    write(here / "data" / "a.bson")
    (here / "link.bson").symlink_to("data/a.bson")
    (here / "linked").symlink_to("data")
    for spec in ("link.bson", "linked/a.bson", "linked/*.bson"):
        assert open_catalogue(spec).product_id.tolist() == [1]
    with pytest.raises(UserError, match=r"a\.bson is named more than once"):
        named_files("link.bson,data/a.bson")
    (here / "broken.bson").symlink_to("gone.bson")
    with pytest.raises(UserError, match=r"broken\.bson is a link to gone\.bson, which is not the"):
        named_files("broken.bson")
    (here / "loop.bson").symlink_to("loop.bson")
    with pytest.raises(UserError, match=r"loop\.bson is a link to loop\.bson"):
        named_files("loop.bson")


def test_a_pattern_names_folders_where_it_fits_no_file(here: Path) -> None:
    for name in ("train-b", "train-a"):
        (here / name).mkdir()
    assert [one.path for one in named("train-*")] == [Path("train-a"), Path("train-b")]
    write(here / "train-c.bson")
    assert [one.path for one in named("train-*")] == [Path("train-c.bson")]


def test_the_directory_that_a_pattern_looks_in(here: Path) -> None:
    for name in ("a/x", "b/x", "[c]/x"):
        (here / name).mkdir(parents=True)
        write(here / name / "p.bson")
    for spec, wanted in (
        ("a/x/p.bson", ["a/x"]),
        ("a/x/*.bson", ["a/x"]),
        ("?/x/p.bson", [".", "."]),
        (f"{here}/*/x/p.bson", [str(here)] * 3),
        ("[c]/*/p.bson", ["[c]"]),
        ("a/x/p.bson,b/*/p.bson", ["a/x", "b"]),
    ):
        assert [one.inside for one in named(spec)] == [Path(path) for path in wanted]


def test_dumps_beside_folders(here: Path) -> None:
    (here / "photos").mkdir()
    write(here / "photos" / "a.bson")
    with pytest.raises(UserError, match=r"photos holds a.bson: name its dumps, as in 'photos/\*"):
        open_catalogue("photos")


def test_patterns_that_fit_no_file(here: Path) -> None:
    (here / "a.bson").mkdir()
    for spec in ("none/*.bson", "none.bson", "a.bson/*"):
        with pytest.raises(UserError, match="no such file; check the path or the pattern"):
            named_files(spec)
    for spec in ("", ",", " , ", []):
        with pytest.raises(UserError, match="no data were named"):
            named_files(spec)
    os.mkfifo(here / "pipe.bson")
    with pytest.raises(UserError, match=r"pipe\.bson is a pipe"):
        open_catalogue("p*.bson")


def test_every_file_is_looked_at_before_the_first_is_read(here: Path) -> None:
    write(here / "a.bson")
    (here / "b.bson").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"b\.bson is a PNG image"):
        open_catalogue("a.bson,b.bson")
    assert sorted(p.name for p in here.iterdir()) == ["a.bson", "b.bson"]
