"""A line now and then where no terminal shows a bar."""

import logging

import pytest

from product_mil import progress
from product_mil.progress import Progress


def lines(caplog: pytest.LogCaptureFixture, clock: list[float], **options: bool) -> list[str]:
    caplog.set_level(logging.INFO, "product_mil")
    caplog.clear()
    with Progress(1000, "images", label="embedding", **options) as bar:
        for seconds in (4, 4, 4, 4, 4, 4):
            clock[0] += seconds
            bar.update(100)
    return caplog.messages


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    assert lines(caplog, clock) == [
        "embedding: 300 of 1,000 images, 28 s left",
        "embedding: 600 of 1,000 images, 16 s left",
    ]


def test_nothing_where_it_is_not_asked_for(
    caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    assert lines(caplog, clock, shown=False) == []


def test_on_a_terminal_a_bar_and_no_lines(
    caplog: pytest.LogCaptureFixture,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert lines(caplog, clock) == []
    assert "embedding: " in capsys.readouterr().err
