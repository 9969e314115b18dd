"""The process of one of several runs side by side, which reads its run from standard input."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from product_mil.cli.console import command
from product_mil.cli.imports import import_file


@command()
def main() -> None:
    """Train the run that a line of JSON on standard input tells, on the cores that it names.

    What the user named on the command line is run first, since it may register heads.

    The input stays open as long as whoever started this lives; when it closes, the run saves and
    stops.
    """
    request = json.loads(sys.stdin.buffer.readline())
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])  # before XLA counts them
    threading.Thread(target=_stop_with_parent, daemon=True).start()

    from product_mil.config import config_from_dict, load_config
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.run import run

    configure_jax()
    for path in request["imports"]:
        import_file(Path(path))
    if request["spec"]:
        load_config(request["spec"])
    run(config_from_dict(request["config"]), Path(request["workdir"]))


def _stop_with_parent() -> None:
    while os.read(0, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
