"""Where outputs may go: to nothing, or in the place of a former output of the same kind."""

import os
from pathlib import Path

import pytest

from product_mil.errors import UserError
from product_mil.files.outputs import Kind, check_output, csv_with_header

LIST = Kind("a list", (".csv", ".csv.gz"), csv_with_header(("a", "b")))
BOX = Kind("a box", (), lambda path: (path / "lid").exists())


def test_directories(tmp_path: Path) -> None:
    box = tmp_path / "box"
    check_output(box, BOX)
    box.mkdir()
    check_output(box, BOX)
    (tmp_path / "linked").symlink_to(box)
    check_output(tmp_path / "linked", BOX)
    (box / "mine").touch()
    with pytest.raises(UserError, match="holds other files and is not a box"):
        check_output(box, BOX)
    (box / "lid").touch()
    check_output(box, BOX)
    with pytest.raises(UserError, match="is a file: name a directory"):
        check_output(box / "lid", BOX)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directories_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match=r"cannot write .*x\.csv: Permission denied"):
        check_output(tmp_path / "x.csv", LIST)
