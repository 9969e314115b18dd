"""Every system of the seed report in one table: from the prior to the joint model, on your data.

    python tools/seed_table.py --output table --budget_minutes 15            # the embedded sample
    python tools/seed_table.py --output table --budget_minutes 60 --data train.bson \
        --valid valid.bson --categories category_names.csv --weights mobilenet_v2=FILE

Trains each rung within its share of the budget and writes seed_table.txt, .csv and .png. Time that
a rung leaves over goes to the later ones, then to those that were cut short. Kill it whenever you
like: the same command goes on. A rung whose weights are not at hand runs on MobileNetV2 instead.
"""

import argparse
import csv
import dataclasses
import io
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product_mil.config import Config, load_config, override, problems, refuse
from product_mil.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from product_mil.data.loader import Products
    from product_mil.trained import TrainedRun

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SUBSTITUTE = "mobilenet_v2"
SUBSTITUTE_FROM = "blocks/14"  # what of it the second stage trains, and all above
TIMED_IMAGES = 128
STARTING_S = 20.0  # no rung is gone on with for less
INTERRUPTED = 143  # how `run` leaves when it was stopped


@dataclass(frozen=True)
class Rung:
    """One system: its configuration, and its share of the budget against the others'."""

    name: str
    config: str  # under configs/
    share: float


RUNGS = (
    Rung("prior", "prior.py", 0.1),
    Rung("tree", "tree.py", 2),
    Rung("cnn_1", "cnn_1.py", 2),
    Rung("cnn_2", "cnn_2.py", 3),
    Rung("cnn_3", "cnn_3.py", 6),
    Rung("inception_v3", "inception_v3.py:unlocked", 4),
    Rung("inception_v3-joint", "inception_v3.py:unlocked_joint", 4),
    Rung("xception", "xception.py:unlocked", 4),
    Rung("xception-joint", "xception.py:unlocked_joint", 4),
)


@dataclass(frozen=True)
class Planned:
    """A rung made ready for the data and the weights at hand."""

    name: str
    config: Config
    share: float
    note: str = ""


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train what is not trained yet, write the table after every rung."""
    parser = argparse.ArgumentParser(
        description="Train every system of the seed report within a budget and tabulate them.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of table and runs")
    parser.add_argument("--budget_minutes", type=float, default=15.0, help="for all training")
    parser.add_argument("--data", default="", help="BSON to train on; default: embedded sample")
    parser.add_argument("--valid", default="", help="BSON to validate on; default: split off")
    parser.add_argument("--test", default="", help="BSON to measure on; default: validation part")
    parser.add_argument("--categories", default="", help="category_names.csv")
    parser.add_argument("--max_products", type=int, default=0, help="a random part of --data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="BACKBONE=FILE",
        help="ImageNet weights at hand, such as mobilenet_v2=FILE.h5 or xception=imagenet",
    )
    parser.add_argument(
        "--rungs", nargs="+", default=[], metavar="NAME", help="only these rungs of the ladder"
    )
    args, overrides = parser.parse_known_args(argv)
    with exit_on_user_error():
        for flag in overrides:
            if not (flag.startswith("--config.") and "=" in flag):
                raise UserError(f"{flag}: unknown argument")
        if args.budget_minutes <= 0:
            raise UserError(f"--budget_minutes={args.budget_minutes}: must be above 0")
        if args.output.exists() and not args.output.is_dir():
            raise UserError(f"{args.output} is a file: name a directory")
        # JAX starts here, not for a typing error.
        from product_mil.train.runtime import configure_jax

        configure_jax()
        planned, left_out = plan(args, overrides)
        climb(planned, left_out, args)


def plan(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[list[Planned], list[str]]:
    """The rungs that can be trained, equal ones joined, and what is left out and why.

    Raises:
        UserError: unknown rungs or backbones, or configurations that are wrong.
    """
    from product_mil.build.check import check_config
    from product_mil.model.backbones import backbone

    names = [rung.name for rung in RUNGS]
    for name in args.rungs:
        if name not in names:
            raise UserError(f"--rungs {name}: there is no such rung; choose of {', '.join(names)}")
    weights: dict[str, str] = {}
    for item in args.weights:
        name, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"--weights {item}: expected BACKBONE=FILE or BACKBONE=imagenet")
        weights[backbone(name).name] = value
    planned: dict[str, Planned] = {}
    left_out: list[str] = []
    for rung in RUNGS:
        if args.rungs and rung.name not in args.rungs:
            continue
        config = load_config(str(CONFIGS / rung.config))
        name, note = rung.name, ""
        if config.model.weights:
            wanted = config.model.backbone
            used = next((n for n in (wanted, SUBSTITUTE) if _at_hand(n, weights)), None)
            if used is None:
                left_out.append(
                    f"{rung.name}: no weights of {wanted} at hand, nor of {SUBSTITUTE} in its "
                    f"place; name them with --weights {wanted}=FILE (or =imagenet: download)"
                )
                continue
            model = dataclasses.replace(
                config.model, backbone=used, weights=weights.get(used, "imagenet")
            )
            config = dataclasses.replace(config, model=model)
            if used != wanted:
                name = rung.name.replace(wanted, SUBSTITUTE)
                stage = dataclasses.replace(config.finetune, trainable=SUBSTITUTE_FROM)
                config = dataclasses.replace(config, finetune=stage)
                before = planned[name].note + " and " if name in planned else "in place of "
                note = f"{before}{rung.name}, whose weights are not at hand"
                note = note.replace(", whose weights are not at hand and", " and")
        data = dataclasses.replace(
            config.data,
            train=args.data,
            valid=args.valid,
            categories=args.categories,
            max_products=args.max_products,
        )
        config = dataclasses.replace(config, name=name, seed=args.seed, data=data)
        pairs = [flag.removeprefix("--config.").partition("=") for flag in overrides]
        config, errors = override(config, [(field, value) for field, _, value in pairs])
        refuse([*errors, *problems(config), *check_config(config)])
        share = rung.share + (planned[name].share if name in planned else 0)
        planned[name] = Planned(name, config, share, note)
    return list(planned.values()), left_out


def _at_hand(name: str, weights: dict[str, str]) -> bool:
    from product_mil.model.backbones import backbone
    from product_mil.model.published import weights_cache_dir

    if name in weights:
        return True
    published = backbone(name).weights
    assert published is not None
    return (weights_cache_dir() / published.without_top.file_name).is_file()


class Progress:
    """What is known of a rung, kept in a file: seconds of training so far, and its row."""

    def __init__(self, directory: Path, name: str) -> None:
        self.workdir = directory / "runs" / name
        self._path = directory / "runs" / f"{name}.json"
        self._found: dict[str, Any] = {"spent_s": 0.0, "started": None, "row": None}
        if self._path.exists():
            self._found = json.loads(self._path.read_text(encoding="utf-8"))
        if self._found["started"] is not None:  # it was killed: count until its last sign of life
            signs = [path.stat().st_mtime for path in self.workdir.rglob("*") if path.is_file()]
            lost_s = max([*signs, self._found["started"]]) - self._found["started"]
            self._keep(spent_s=self.spent_s + lost_s, started=None)

    @property
    def spent_s(self) -> float:
        """Seconds of training over all sessions."""
        return self._found["spent_s"]

    @property
    def row(self) -> dict[str, Any] | None:
        """Its line of the table; None before it was measured."""
        return self._found["row"]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.row is not None and not self.row["cut_short"]

    def start(self) -> None:
        """A session of training begins."""
        self._keep(started=time.time())

    def stop(self, spent_s: float) -> None:
        """It ended after so long."""
        self._keep(started=None, spent_s=self.spent_s + spent_s)

    def measured(self, row: dict[str, Any]) -> None:
        """Keep the line."""
        self._keep(row=row)

    def _keep(self, **changed: Any) -> None:
        self._found |= changed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
        draft.replace(self._path)


def climb(planned: Sequence[Planned], left_out: Sequence[str], args: argparse.Namespace) -> None:
    """Train, measure and tabulate; first every rung once, then on those that were cut short."""
    progress = {rung.name: Progress(args.output, rung.name) for rung in planned}
    budget_s = args.budget_minutes * 60

    def left_s() -> float:
        return budget_s - sum(each.spent_s for each in progress.values())

    for name in left_out:
        print(f"left out: {name}", flush=True)
    for again in (False, True):
        waiting = [
            rung
            for rung in planned
            if not progress[rung.name].complete
            and (again or progress[rung.name].row is None or left_s() > STARTING_S)
        ]
        for number, rung in enumerate(waiting):
            own = progress[rung.name]
            share_s = left_s() * rung.share / sum(each.share for each in waiting[number:])
            if again and share_s < STARTING_S:
                continue
            print(f"== {rung.name}: up to {share_s:.0f} s of {left_s():.0f} s left", flush=True)
            cut = _train(rung.config, own, share_s)
            own.measured(_measure(rung, own, cut, args))
            publish(planned, progress, left_out, args)
    publish(planned, progress, left_out, args)
    print((args.output / "seed_table.txt").read_text(encoding="utf-8"))


def _train(config: Config, own: Progress, share_s: float) -> bool:
    """Train for so long at most; whether it was cut short."""
    from product_mil.run import run

    started = time.monotonic()
    deadline = started + share_s
    own.start()
    try:
        run(config, own.workdir, deadline)
    except SystemExit as left:
        if left.code != INTERRUPTED or time.monotonic() < deadline:
            raise  # asked by the user
        return True
    finally:
        own.stop(time.monotonic() - started)
    return False


def _measure(rung: Planned, own: Progress, cut: bool, args: argparse.Namespace) -> dict[str, Any]:
    """The rung's line of the table."""
    from product_mil.build.data import build_data
    from product_mil.train.evaluate import metrics_of, score_products
    from product_mil.train.step import make_eval_step
    from product_mil.trained import open_run

    row: dict[str, Any] = {"system": rung.name, "cut_short": cut, "note": rung.note}
    try:
        run = open_run(own.workdir)
    except UserError:
        return row | {"note": f"{rung.note}; no checkpoint in its time".lstrip("; ")}
    products = run.products(args.test) if args.test else build_data(run.config).valid
    step = make_eval_step(run.model.structure)
    arrays = (run.model.parameters, run.model.statistics)
    scores, _ = score_products(
        len(products),
        run.batches(products, 256),
        lambda batch: step(*arrays, batch, run.log_prior),
        run.mesh,
    )
    metrics = metrics_of(scores, products, run.categories)
    if cut:
        row["note"] = f"{row['note']}; stopped in stage {run.stage} at step {run.step}".lstrip("; ")
    return row | {
        "products": int(metrics["products"]),
        "top1": metrics["top1"],
        "top1_several_images": metrics.get("top1_several_images"),
        "nll": metrics["nll"],
        "parameters": run.record["parameters"],
        "images_per_s": _images_per_s(run, products),
    }


def _images_per_s(run: "TrainedRun", products: "Products") -> float:
    """Photos a second from the file to the prediction, the second time over a few."""
    import jax
    import numpy as np

    from product_mil.batch import EmbeddedBatch, PackedBatch
    from product_mil.model.backbones import backbone
    from product_mil.train.mesh import put_batch
    from product_mil.train.step import make_eval_step

    few = products.subset(np.cumsum(products.num_images) <= TIMED_IMAGES)
    num_images = int(few.num_images.sum())
    step = make_eval_step(run.model.structure)
    on_host = backbone(run.config.model.backbone).on_host
    spent_s = 0.0
    for _ in range(2):
        started = time.monotonic()
        for loaded in run.batches(few, TIMED_IMAGES // 2, pixels=True):
            batch = loaded.batch
            if on_host is not None and isinstance(batch, PackedBatch):
                real = batch.slots.segment < batch.slots.label.shape[1]
                found = on_host(batch.images[real])
                embeddings = np.zeros((*real.shape, found.shape[1]), np.float32)
                embeddings[real] = found
                batch = EmbeddedBatch(embeddings, batch.slots)
            arrays = (run.model.parameters, run.model.statistics)
            jax.block_until_ready(step(*arrays, put_batch(batch, run.mesh), run.log_prior))
        spent_s = time.monotonic() - started
    return num_images / max(spent_s, 1e-9)


COLUMNS = (
    "system", "top1", "top1_several_images", "nll", "parameters", "train_s", "images_per_s",
    "cut_short", "note",
)  # fmt: skip


def publish(
    planned: Sequence[Planned],
    progress: dict[str, Progress],
    left_out: Sequence[str],
    args: argparse.Namespace,
) -> None:
    """Write the table of what has been measured so far, each file whole."""
    import jax

    rows = []
    for rung in planned:
        own = progress[rung.name]
        if own.row is not None:
            rows.append(own.row | {"train_s": own.spent_s})
    products = next((row["products"] for row in rows if "products" in row), 0)
    title = (
        f"{args.test or args.valid or args.data or 'embedded sample'}: {products} products, "
        f"seed {args.seed}, budget {args.budget_minutes:g} min; {date.today()}, "
        f"{os.cpu_count()} {platform.machine()} cores, {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s), JAX {jax.__version__}"
    )
    csv_text = io.StringIO()
    writer = csv.DictWriter(csv_text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text = "\n".join([title, "", *_lines(rows), *(f"left out: {line}" for line in left_out), ""])
    for name, content in (("seed_table.txt", text), ("seed_table.csv", csv_text.getvalue())):
        draft = args.output / f"{name}.draft"
        draft.write_text(content, encoding="utf-8")
        draft.replace(args.output / name)
    if rows:
        _plot(rows, title, args.output / "seed_table.png")


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table for people."""
    names = ("system", "top-1", "several images", "NLL", "parameters", "training", "images/s", "")
    table: list[tuple[str, ...]] = [names]
    for row in rows:
        number = [row.get(key) for key in COLUMNS[1:4]]
        figures = ["" if value is None else f"{value:.4f}" for value in number]
        cut = f"CUT SHORT: {row['note']}" if row["cut_short"] else row["note"]
        millions = f"{row['parameters'] / 1e6:.3f} M" if "parameters" in row else ""
        rate = f"{row['images_per_s']:.0f}" if "images_per_s" in row else ""
        table.append((row["system"], *figures, millions, f"{row['train_s']:.0f} s", rate, cut))
    widths = [max(len(line[i]) for line in table) for i in range(len(names) - 1)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [line[i].rjust(widths[i]) for i in range(1, len(widths))]
            + [line[-1]]
        ).rstrip()
        for line in table
    ]


def _plot(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Accuracy of every rung, overall and on products with several images."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if "top1" in row]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(measured)), layout="constrained")
    axis = figure.subplots()
    for offset, key, label in (
        (-0.2, "top1", "all products"),
        (0.2, "top1_several_images", "products with several images"),
    ):
        values = [row[key] or 0.0 for row in measured]
        places = [number + offset for number in range(len(measured))]
        bars = axis.barh(places, values, height=0.38, label=label)
        axis.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    names = [row["system"] + (" (cut short)" if row["cut_short"] else "") for row in measured]
    axis.set_yticks(range(len(measured)), names)
    axis.invert_yaxis()
    axis.set(xlabel="top-1", xlim=(0, 1.08))
    axis.set_title(title, fontsize=7, wrap=True)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    draft = path.with_name(f"draft-{path.name}")
    figure.savefig(draft, dpi=120)
    draft.replace(path)


if __name__ == "__main__":
    main()
