"""The records of a run for people: its log, metrics.jsonl, TensorBoard events and curves."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from product_mil.errors import UserError
from product_mil.files.whole import whole, write_text
from product_mil.text import table

METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
CURVES_FILE = "curves.png"
_LOGGER = logging.getLogger(__name__)


class RunLog:
    """The log of a run's directory; of several processes that train together, one keeps it."""

    def __init__(self, workdir: Path, *, writes: bool = True) -> None:
        """Open the log. Without `writes` nothing is logged or written."""
        self._workdir, self._writes = workdir, writes
        if writes:
            workdir.mkdir(parents=True, exist_ok=True)
        self._tensorboard: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Log the text, and write it to log.txt."""
        if self._writes:
            _LOGGER.info("%s", text)
            self.keep(text)

    def keep(self, text: str) -> None:
        """Write the text to log.txt, with the time."""
        if not self._writes:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        # File names that are not UTF-8 keep their bytes.
        path = self._workdir / LOG_FILE
        with (
            suppress(OSError),  # a full disk is reported by the metrics or the next checkpoint
            path.open("a", encoding="utf-8", errors="surrogateescape") as file,
        ):
            file.writelines(f"{stamp} {line}\n" for line in text.splitlines() or [""])

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl, except an incomplete last line after a kill.

        Raises:
            UserError: another line is damaged.
        """
        path = self._workdir / METRICS_FILE
        if not path.exists():
            return []
        rows = []
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            if line:
                try:
                    row = json.loads(line)
                    rows.append({**row, "stage": row["stage"], "step": int(row["step"])})
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise UserError(
                        f"{path}: line {number} is damaged; put a copy of the file back, or remove "
                        "the line: its evaluation is then in no curve"
                    ) from None
        return rows

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, and the same values for TensorBoard.

        Raises:
            UserError: the file cannot be written.
        """
        if not self._writes:
            return
        row = {"stage": stage, "step": step, **values}
        path = self._workdir / METRICS_FILE
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}; make room and give the same "
                "command again"
            ) from None
        writer = self._writer(stage, step)
        if writer is not None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

    def cut(self, stage: str, step: int) -> None:
        """Remove the lines of a stage after its last checkpoint, which it will write again.

        Lines of other stages stay, since a run that resumes passes through its finished stages.
        """
        if not self._writes:
            return
        kept = [row for row in self.metrics() if row["stage"] != stage or row["step"] <= step]
        path = self._workdir / METRICS_FILE
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def _writer(self, stage: str, step: int) -> Any:
        """TensorBoard's writer of a stage, or None if it cannot be made."""
        if stage not in self._tensorboard:
            from tensorboardX import SummaryWriter

            # Absolute, because a relative name such as gs: would mean another computer.
            directory = (self._workdir / "tensorboard" / stage).absolute()
            try:
                writer = SummaryWriter(str(directory), purge_step=step)
            except OSError as error:  # it needs a shared lock, which some systems lack
                self.say(f"  note: no events for TensorBoard: {error.strerror or error}")
                writer = None
            self._tensorboard[stage] = writer
        return self._tensorboard[stage]

    def close(self) -> None:
        """Close the event files."""
        for writer in filter(None, self._tensorboard.values()):
            writer.close()

    def draw_curves(self) -> None:
        """Draw loss and accuracy over the steps of all stages to curves.png."""
        rows = [row for row in self.metrics() if "valid/top1" in row]
        if not rows or not self._writes:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        panels = [("loss", ("train/loss", "valid/nll")), ("top-1", ("train/top1", "valid/top1"))]
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        for axis, (title, names) in zip(figure.subplots(1, 2), panels, strict=True):
            for name, style in zip(names, ("--", "-"), strict=True):
                start = 0
                for color, stage in enumerate(stages):
                    own = [row for row in rows if row["stage"] == stage and name in row]
                    axis.plot(
                        [start + row["step"] for row in own],
                        [row[name] for row in own],
                        style,
                        color=f"C{color}",
                        marker=".",
                        label=f"{name}, {stage}",
                    )
                    start += max((row["step"] for row in rows if row["stage"] == stage), default=0)
            axis.set(title=title, xlabel="step")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
        with whole(self._workdir / CURVES_FILE) as file:
            figure.savefig(file, dpi=120, format="png")


def metrics_table(values: Mapping[str, float], title: str) -> str:
    """The metrics as aligned lines for people."""
    rows = []
    for name, value in values.items():
        if name.startswith("products_images_"):
            continue
        text = f"{value:.0f}" if name.startswith("products") else f"{value:.4f}"
        count = values.get("products_images_" + name.removeprefix("top1_images_"))
        of = f"   of {count:.0f} products" if name.startswith("top1_images_") and count else ""
        rows.append((f"  {name}", text, of))
    return "\n".join([title, *table(rows, ("<24", ">8", "<"), gap="")])
