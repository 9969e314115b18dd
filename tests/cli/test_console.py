"""Streams that are closed, full or gone, at any moment, in real processes."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from product_mil.cli.console import LastingStream, command, shown_messages
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT

NO_READER = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, {descriptor})\n"
FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), {descriptor})\n"
CLOSED = "import os; os.close({descriptor})\n"
COMMAND = """
import sys, os
if {closed}: sys.{name} = None  # as Python begins when it is started without
from product_mil.cli.console import command
from product_mil.errors import UserError

@command(prints_result={prints_result})
def main():
    for i in range(3000):
        print("a line of standard output", flush=i % 2)
        print("a line of standard error", file=sys.stderr)
    open({result!r}, "w").write(str(os.fstat(1).st_ino != os.fstat(0).st_ino))
    {end}
main()
"""


def run_with(
    how: str, stream: str, tmp_path: Path, *, prints_result: bool = False, end: str = "pass"
) -> subprocess.CompletedProcess[str]:
    code = how.format(descriptor={"stdout": 1, "stderr": 2}[stream])
    code += COMMAND.format(
        closed=how is CLOSED,
        name=stream,
        prints_result=prints_result,
        result=str(tmp_path / "result"),
        end=end,
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("how", [NO_READER, FULL, CLOSED])
def test_work_goes_on_without_its_streams(how: str, stream: str, tmp_path: Path) -> None:
    done = run_with(how, stream, tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "result").exists()
    other = done.stderr if stream == "stdout" else done.stdout
    assert other.count("\n") == 3000  # whole, and nothing but what was written
    assert "Error" not in other


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        (NO_READER, 141, ""),
        (FULL, 2, "error: cannot write to standard output: No space left on device\n"),
        (CLOSED, 0, ""),  # the caller asked for no output
    ],
)
def test_a_result_that_cannot_be_printed(how: str, status: int, said: str, tmp_path: Path) -> None:
    done = run_with(how, "stdout", tmp_path, prints_result=True)
    assert done.returncode == status
    assert done.stderr.removeprefix("a line of standard error\n" * 3000) == said


@pytest.mark.parametrize("how", [NO_READER, FULL, CLOSED])
@pytest.mark.parametrize(
    ("end", "status"),
    [("raise UserError('x')", 2), ("raise KeyboardInterrupt", 130), ("sys.exit(7)", 7)],
)
def test_the_exit_status_is_told_without_streams(
    how: str, end: str, status: int, tmp_path: Path
) -> None:
    assert run_with(how, "stderr", tmp_path, end=end).returncode == status


def test_files_do_not_take_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    """A library's message to descriptor 2 would else be written into the first file opened."""
    code = (
        "import os, sys; os.close(2); sys.stderr = None\n"
        "from product_mil.cli.console import command\n"
        "with command():\n"
        f"    file = open({str(tmp_path / 'x')!r}, 'w')\n"
        "    os.write(2, b'from a library')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "x").read_text() == ""


def test_names_that_are_no_utf8_are_printed() -> None:
    code = (
        "from product_mil.cli.console import command\n"
        "with command():\n    print('caf\\udce9 \\xe9')\n"
    )
    for encoding, expected in (
        ("utf-8", b"caf\\udce9 \xc3\xa9\n"),
        ("ascii", b"caf\\udce9 \\xe9\n"),
    ):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env=environment, cwd=ROOT, check=True
        )
        assert done.stdout == expected


LIBRARY = """
import logging
from product_mil.cli.console import command
from product_mil.errors import Interrupted
logger = logging.getLogger("product_mil.some.room")

def work():
    logger.debug("nobody reads this")
    logger.info("two\\nlines")
    logger.warning("a %s", "warning")

@command()
def main():
    with command():  # a command within a command says everything once
        work()
    raise Interrupted("stopped at step 3", {number})

"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_the_library_says_is_shown_by_a_command_alone(number: int) -> None:
    code = LIBRARY.format(number=int(number))
    alone, shown = (
        subprocess.run(
            [sys.executable, "-c", code + call],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        for call in ("work()", "main()")
    )
    assert (alone.stdout, alone.stderr) == ("", "a warning\n")  # Python shows warnings itself
    line = "stopped at step 3; the same command goes on from there"
    assert shown.stdout == f"two\nlines\n{line}\n"
    assert shown.stderr == "a warning\n"
    assert shown.returncode == 128 + number


WRITES = """
import os, signal
from pathlib import Path
from product_mil.cli.console import command
from product_mil.files.whole import Draft

@command()
def main():
    drafts = [Draft(Path("s.csv"))]
    try:
        with command():
            print(len(os.listdir(".")), "draft", flush=True)
            signal.raise_signal({number})
            print("not reached")
    finally:
        if {twice}:
            signal.raise_signal({number})
        drafts[0].discard()
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_draft(number: int, tmp_path: Path) -> None:
    code = WRITES.format(number=int(number), twice=False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.stdout == "1 draft\n"
    assert done.stderr == "interrupted; the same command starts or goes on again\n"
    assert done.returncode == -number
    assert list(tmp_path.iterdir()) == []


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    code = WRITES.format(number=int(signal.SIGTERM), twice=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGTERM


def test_a_sighup_that_is_ignored_stays_so_and_handlers_are_given_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with command():
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_messages_are_written_at_once(tmp_path: Path) -> None:
    """Before the process ends, whatever standard output is."""
    code = LIBRARY.format(number=15) + "with command():\n    work(); import os; os._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == "two\nlines\n"


def test_handlers_are_given_back() -> None:
    logger, own = logging.getLogger("product_mil"), logging.NullHandler()
    logger.addHandler(own)
    before = logger.handlers[:], logger.level, logger.propagate
    with command():
        assert own not in logger.handlers
    assert (logger.handlers[:], logger.level, logger.propagate) == before
    logger.removeHandler(own)


def test_messages_of_another_library_are_shown_from_a_level_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `serve` shows those of uvicorn."""
    logger = logging.getLogger("another.library")
    with command(), shown_messages(logging.ERROR, "another", logging.WARNING):
        for say in (logger.info, logger.warning, logger.error):
            say("%s", say.__name__)
    assert capsys.readouterr() == ("warning\n", "error\n")
    assert logging.getLogger("another").handlers == []


def test_the_streams_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with command(), command():
        assert isinstance(sys.stdout, LastingStream)
        assert not isinstance(sys.stdout._stream, LastingStream)
        print("said")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "said\n"


@pytest.mark.parametrize("tool", ["index_bson", "show_data", "compare"])
def test_help_without_a_reader(tool: str) -> None:
    code = NO_READER.format(descriptor=1) + (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"runpy.run_path({str(ROOT / 'tools' / f'{tool}.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode in (0, 141), done.stderr) == (True, "")


def test_index_bson_into_head(sample: SampleFiles) -> None:
    command = f"{sys.executable} {ROOT}/tools/index_bson.py {sample.train} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection", ["2>&-", "2>/dev/full", ">&- 2>&-", "</dev/null >/dev/full"]
)
def test_training_and_export_without_streams(
    redirection: str, sample: SampleFiles, tmp_path: Path
) -> None:
    python = f"cd {ROOT} && PYTHONPATH={ROOT} {sys.executable}"
    train = (
        f"{python} -m product_mil.main --config=configs/joint.py:smoke "
        f"--config.data.train={sample.train} --config.data.max_products=40 "
        f"--config.finetune.epochs=0 --config.data.image_size_px=32 --workdir={tmp_path}/run"
    )
    export = (
        f"{python} tools/export_predictions.py --workdir {tmp_path}/run --data {sample.train} "
        f"--output {tmp_path}/s.csv"
    )
    for line in (train, export):
        done = subprocess.run(["bash", "-c", f"{line} {redirection}"], check=False)
        assert done.returncode == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 121


@pytest.mark.slow
def test_training_whose_reader_goes_away(sample: SampleFiles, tmp_path: Path) -> None:
    """As under `| head` or a tee that dies: it trains to its end."""
    with subprocess.Popen(
        [
            sys.executable, "-m", "product_mil.main", "--config=configs/joint.py:smoke",
            f"--config.data.train={sample.train}", "--config.data.max_products=40",
            "--config.head.epochs=1", "--config.finetune.epochs=20",
            "--config.data.image_size_px=32", f"--workdir={tmp_path}/run",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(300) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert '"stage": "finetune"' in rows[-1]
