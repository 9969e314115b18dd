"""What a run leaves for people: a log, metrics.jsonl, TensorBoard events, learning curves."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
CURVES_FILE = "curves.png"


class RunLog:
    """The log of a run's directory."""

    def __init__(self, workdir: Path) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self._workdir = workdir
        self._tensorboard: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Print, and keep in log.txt with the time."""
        print(text, flush=True)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with (self._workdir / LOG_FILE).open("a", encoding="utf-8") as file:
            file.writelines(f"{stamp} {line}\n" for line in text.splitlines() or [""])

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last line cut off by a kill is left out."""
        path = self._workdir / METRICS_FILE
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines if line]

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, and the same values for TensorBoard."""
        row = {"stage": stage, "step": step, **values}
        with (self._workdir / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        writer = self._writer(stage, step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def cut(self, stage: str, step: int) -> None:
        """Drop what a stage wrote after its last checkpoint: it goes on there and writes it again.

        Lines of other stages stay: a run that resumes passes through its finished stages.
        """
        kept = [row for row in self.metrics() if row["stage"] != stage or row["step"] <= step]
        path = self._workdir / METRICS_FILE
        draft = path.with_suffix(".draft")
        draft.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        draft.replace(path)

    def _writer(self, stage: str, step: int) -> Any:
        if stage not in self._tensorboard:
            from tensorboardX import SummaryWriter

            directory = self._workdir / "tensorboard" / stage
            self._tensorboard[stage] = SummaryWriter(str(directory), purge_step=step)
        return self._tensorboard[stage]

    def close(self) -> None:
        """Close the event files."""
        for writer in self._tensorboard.values():
            writer.close()

    def draw_curves(self) -> None:
        """Loss and accuracy over the steps of all stages, as a picture in the directory."""
        rows = [row for row in self.metrics() if "valid/top1" in row]
        if not rows:
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
        draft = self._workdir / f"draft-{CURVES_FILE}"
        figure.savefig(draft, dpi=120)
        draft.replace(self._workdir / CURVES_FILE)


def metrics_table(values: Mapping[str, float], title: str) -> str:
    """Metrics as aligned lines for people."""
    fractions = ("top1", "top5", "calibration_error", "trust", "error_tree", "mean_class", "nll")
    lines = [title]
    for name, value in values.items():
        if name.startswith("products_images_"):
            continue
        text = f"{value:8.4f}" if name.startswith(fractions) else f"{value:8.0f}"
        count = values.get("products_images_" + name.removeprefix("top1_images_"))
        of = f"   of {count:.0f} products" if name.startswith("top1_images_") and count else ""
        lines.append(f"  {name:<22}{text}{of}")
    return "\n".join(lines)
