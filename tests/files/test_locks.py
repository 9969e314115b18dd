import subprocess
import sys
from pathlib import Path

from product_mil.files.locks import one_at_a_time

HOLD = """
import logging, sys, time
from pathlib import Path
from product_mil.files.locks import one_at_a_time
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
with one_at_a_time(Path(sys.argv[1]), "the index of a.bson"):
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_process_waits_for_the_other_one_and_not_for_a_killed_one(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "a"
    with one_at_a_time(lock, "work"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said == "waiting for another process: the index of a.bson\n"
    with process:
        assert process.stdout.readline() == "begun\n"
        process.kill()
    with one_at_a_time(lock, "work"):
        pass
