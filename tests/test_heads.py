"""Heads are registered by name, once, and never in place of one that comes along."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from product_mil.cli.imports import import_file
from product_mil.errors import UserError
from product_mil.heads import Head, HeadSpec, register
from product_mil.model.registry import HEADS, head


class Mine(Head):
    """A head; it is never built here."""

    def __init__(self, *, exponent: float = 1.0):
        self.exponent = exponent


class Other(Head):
    """Another one."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dict(HEADS)
    yield
    HEADS.clear()
    HEADS.update(before)


def test_the_same_again_and_another_of_the_name() -> None:
    register(HeadSpec("mine", Mine, "in some way"))
    register(HeadSpec("mine", functools.partial(Mine, exponent=2.0), "in another way"))
    assert head("mine").about == "in another way"
    with pytest.raises(UserError, match=r"'mine' is registered already, as .*\.Mine; give .*Other"):
        register(HeadSpec("mine", Other, "in some way"))
    with pytest.raises(UserError, match="'mean' comes with product_mil"):
        register(HeadSpec("mean", Mine, "in some way"))
    assert head("mean").about == "mean of the images' embeddings, then classified"


def test_a_setting_that_no_configuration_has() -> None:
    with pytest.raises(ValueError, match=r"mine: exponent is none of attention_heads, .*partial"):
        HeadSpec("mine", Mine, "in some way", settings=("attention_dim", "exponent"))


def test_files_that_cannot_be_imported(tmp_path: Path) -> None:
    for name, text, message in (
        ("typo.py", "class Mine(\n", r"typo\.py: line 1: '\(' was never closed"),
        ("lacking.py", "import no_such_module\n", r"lacking\.py: No module named 'no_such_module'"),
        ("page.py", "<!DOCTYPE html><html>", "is an HTML page, no Python file"),
        (
            "taken.py",
            "from product_mil.heads import Head, HeadSpec, register\n"
            "register(HeadSpec('tree', Head, ''))\n",
            r"taken\.py: head 'tree' comes with product_mil",
        ),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=f"--import .*{message}"):
            import_file(tmp_path / name)
    with pytest.raises(UserError, match=r"--import .*nowhere\.py: no such file"):
        import_file(tmp_path / "nowhere.py")
