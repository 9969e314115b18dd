import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from product_mil.errors import UserError
from product_mil.train.log import METRICS_FILE, RunLog, metrics_table


def filled(directory: Path) -> RunLog:
    log = RunLog(directory)
    for step in (2, 4):
        log.write("head", step, {"train/loss": 1.0 / step, "valid/top1": step / 10, "valid/nll": 1})
    for step in (3, 6, 9):
        log.write(
            "finetune", step, {"train/loss": 0.5 / step, "valid/top1": step / 10, "valid/nll": 1}
        )
    return log


def kept(log: RunLog) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in log.metrics()]


def test_lines_come_back_by_value(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.close()
    rows = RunLog(tmp_path).metrics()
    assert rows[1] == {
        "stage": "head",
        "step": 4,
        "train/loss": 0.25,
        "valid/top1": 0.4,
        "valid/nll": 1,
    }
    assert len(rows) == 5


def test_cut_drops_what_the_stage_will_write_again(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.cut("finetune", 6)
    assert kept(log) == [("head", 2), ("head", 4), ("finetune", 3), ("finetune", 6)]
    log.cut("head", 4)  # a finished stage that a resumed run passes through
    assert kept(log) == [("head", 2), ("head", 4), ("finetune", 3), ("finetune", 6)]
    log.cut("finetune", 0)
    assert kept(log) == [("head", 2), ("head", 4)]
    log.close()


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    log = filled(tmp_path)
    path = tmp_path / METRICS_FILE
    path.write_text(path.read_text(encoding="utf-8")[:-7], encoding="utf-8")
    assert len(log.metrics()) == 4
    log.cut("finetune", 9)
    log.write("finetune", 9, {"valid/top1": 0.9})
    assert kept(log)[-1] == ("finetune", 9)
    assert len(log.metrics()) == 5
    log.close()


@pytest.mark.parametrize(
    "damaged",
    [b"{", b"\0\0\0\0", b"\xff", b"[1]", b'{"step": 2}', b'{"stage": "head", "step": "x"}'],
)
def test_another_damaged_line_is_numbered(damaged: bytes, tmp_path: Path) -> None:
    log = filled(tmp_path)
    path = tmp_path / METRICS_FILE
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damaged, *lines[3:]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 3 is damaged") as caught:
        log.metrics()
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\n".join([*lines[:2], *lines[3:]]))  # as it says
    assert len(log.metrics()) == 4
    log.close()


def test_metrics_that_cannot_be_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device; make room"):
        log.write("head", 1, {"valid/top1": 0.5})


def test_no_memory_to_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No /dev/shm: TensorBoard's writer cannot be made, and nothing else is lost."""

    def none(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(multiprocessing, "Queue", none)
    log = filled(tmp_path)
    assert len(log.metrics()) == 5
    assert (tmp_path / "log.txt").read_text().count("no events for TensorBoard") == 2
    log.close()


def test_a_line_with_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    RunLog(tmp_path).say(os.fsdecode(b"in \xff\xfe"))
    assert (tmp_path / "log.txt").read_bytes().endswith(b"in \xff\xfe\n")


def test_curves_and_log_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "product_mil")
    log = filled(tmp_path)
    log.draw_curves()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    log.say("two\nlines")
    log.keep("unsaid")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line[20:] for line in lines] == ["two", "lines", "unsaid"]
    assert caplog.messages == ["two\nlines"]
    assert list((tmp_path / "tensorboard").glob("*/events*"))
    log.close()
    RunLog(tmp_path / "empty").draw_curves()
    assert not (tmp_path / "empty" / "curves.png").exists()


def test_table() -> None:
    text = metrics_table(
        {
            "products": 12.0,
            "top1": 0.5,
            "nll": 1.25,
            "top1_images_1": 0.25,
            "products_images_1": 8.0,
        },
        "title",
    )
    assert text.splitlines()[0] == "title"
    assert "0.2500   of 8 products" in text
    assert "1.2500" in text
