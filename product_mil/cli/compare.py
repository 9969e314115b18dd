"""Compare trained runs on labelled products, with statistics and a page that shows why.

    python tools/compare.py --runs joint=runs/joint averaged=runs/averaged \
        --data labelled.bson --output comparison

    python tools/compare.py --train --seeds 3 --data labelled.bson --output comparison \
        --configs joint=configs/joint.py:laptop averaged=configs/averaged.py:laptop \
        --config.data.train=train.bson ...

A further variant is one more of --configs, such as mean=configs/joint.py:laptop,model.pooling=mean.
Several seeds of a variant are its runs with commas (`--runs joint=DIR1,DIR2`) or its name again.
`--predictions name=FILE` compares what tools/export_predictions.py wrote. The output directory gets
comparison.json, index.html and the plots.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from product_mil.cli import one_run
from product_mil.cli.console import command
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path
from product_mil.files.whole import draft_directory, write_text

if TYPE_CHECKING:
    from product_mil.compare.gather.gather import Contest
    from product_mil.compare.page.gallery import Detail, Selection

Variants = dict[str, list[Path]]


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train if asked to, judge, write."""
    parser = argparse.ArgumentParser(
        description="Compare trained runs on labelled products.", allow_abbrev=False
    )
    parser.add_argument("--runs", nargs="+", action="extend", default=[], metavar="NAME=DIR,...")
    parser.add_argument(
        "--predictions", nargs="+", action="extend", default=[], metavar="NAME=FILE,..."
    )
    parser.add_argument("--data", help="labelled BSON file, glob, or several with commas")
    parser.add_argument("--output", type=user_path, required=True, help="directory for the results")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--images_per_batch", type=int, default=256, help="over all devices")
    parser.add_argument("--train", action="store_true", help="train the variants of --configs")
    parser.add_argument(
        "--configs",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE.py[:ARGUMENT][,FIELD=VALUE]",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant with --train")
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="what the others are compared with: a variant, or a rule such as "
        "averaged/geometric_mean (default: the last averaging variant, else the last one)",
    )
    args, overrides = parser.parse_known_args(argv)
    _check(args, overrides)
    runs, files = _named(args.runs, "--runs"), _named(args.predictions, "--predictions")
    for name, path in ((name, path) for name, paths in runs.items() for path in paths):
        if not path.is_dir():
            raise UserError(f"--runs {name}={path}: it is no run's directory, but a file")
    # JAX starts here, not for a typing error.
    from product_mil.compare.gather.gather import gather
    from product_mil.compare.gather.headline import headline_of, pooling_of
    from product_mil.compare.page.report import COMPARISON
    from product_mil.compare.page.tables import table_by_num_images, terminal_table
    from product_mil.compare.training.variants import rival_configs, train_rivals
    from product_mil.devices.runtime import configure_jax

    check_output(args.output, COMPARISON)
    configure_jax()
    configs = rival_configs(args.configs, [flag.removeprefix("--config.") for flag in overrides])
    poolings = {name: pooling_of(workdirs[0]) for name, workdirs in runs.items()}
    for more in (
        {name: one.model.pooling for name, one in configs.items()},
        dict.fromkeys(files, ""),
    ):
        if set(poolings) & set(more):
            raise UserError(f"{min(set(poolings) & set(more))} is named twice; give two names")
        poolings |= more
    headline_of(poolings, args.reference)  # refused now, not after the work
    if configs:
        runs |= train_rivals(configs, args.seeds, args.output / "runs", one_run.__name__)
    contest = gather(
        runs,
        files,
        args.data,
        checkpoint=args.checkpoint,
        images_per_batch=args.images_per_batch,
        reference=args.reference,
    )
    comparison = publish(contest, runs, files, args)
    remarks = [*contest.warnings, *contest.notes]
    print(terminal_table(comparison), table_by_num_images(comparison), sep="\n\n", end="\n\n")
    print("".join(f"note: {remark}\n" for remark in remarks), end="")
    print(comparison["verdict"])
    print(
        f"{args.output / 'index.html'}: open it in a browser; it and comparison.json have all "
        f"{len(comparison['difference'])} pairs"
    )


def _check(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    for flag in overrides:
        if not (args.train and flag.startswith("--config.") and "=" in flag):
            raise UserError(f"{flag}: unknown argument; --config.field=value goes with --train")
    if args.train != bool(args.configs):
        raise UserError("--train and --configs name=configs/joint.py ... go together")
    if args.seeds < 1 or args.images_per_batch < 1:
        raise UserError("--seeds and --images_per_batch must be at least 1")
    if (args.runs or args.train) and not args.data:
        raise UserError("runs are compared on labelled products: give --data")
    variants = [text.partition("=")[0] for text in args.runs + args.predictions + args.configs]
    if len(set(variants)) < 2:
        raise UserError(
            "a comparison needs two names or more: --runs joint=DIR averaged=DIR "
            "--data labelled.bson (or --predictions, or --train with --configs)"
        )


def _named(items: Sequence[str], flag: str) -> Variants:
    """`name=A,B` and `name=C` as {name: [A, B, C]}."""
    found: Variants = {}
    for item in items:
        name, equals, value = item.partition("=")
        # A path may hold commas itself.
        parts = [value] if user_path(value).exists() else value.split(",")
        paths = [user_path(part) for part in parts if part]
        if not equals or not name or not paths:
            raise UserError(f"{flag} {item}: expected name=PATH")
        if "/" in name or "_minus_" in name:
            raise UserError(f"{flag} {item}: a name must not hold '/' or '_minus_'")
        for path in paths:
            if not path.exists():
                raise UserError(f"{flag} {item}: {path}: no such file or directory")
        found.setdefault(name, []).extend(paths)
    return found


def publish(
    contest: "Contest", runs: Variants, files: Variants, args: argparse.Namespace
) -> dict[str, Any]:
    """Compute everything and write it, whole or not at all."""
    from datetime import UTC, datetime

    import product_mil
    from product_mil.compare.page.figures import draw_all
    from product_mil.compare.page.gallery import BROKE, FIXED, cards, select
    from product_mil.compare.page.report import JSON_FILE, page, to_json
    from product_mil.compare.page.sentences import everyone, verdict
    from product_mil.compare.statistics.comparison import compare
    from product_mil.compare.statistics.differences import control
    from product_mil.compare.training.fairness import unfair_fields

    a, b = contest.headline
    by_name = {contestant.name: contestant for contestant in contest.contestants}
    comparison: dict[str, Any] = compare(
        contest.questions, contest.contestants, contest.pairs, contest.categories
    )
    comparison |= {
        "headline": [a, b],
        "control": control(
            contest.questions,
            by_name[a],
            by_name[b],
            comparison["difference"][f"{a}_minus_{b}"],
        ),
        "data": args.data,
        "differing_fields": contest.differing_fields,
        "like_for_like": bool(contest.differing_fields)
        and not unfair_fields(contest.differing_fields),
        "notes": contest.notes,
        "warnings": contest.warnings,
        "temperature_hurts": all(
            run.get("calibrated_nll", -np.inf) > run.get("nll", np.inf)
            for run in comparison["runs"].values()
        ),
        "version": product_mil.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    comparison["verdict"] = verdict(comparison)
    answers = {name: by_name[name].seeds[0] for name in (a, b)}
    selection = select(contest.questions, answers[a], answers[b], contest.categories)
    details = {name: _details(name, contest, selection, runs, files, args) for name in (a, b)}
    gallery = cards(
        contest.questions,
        selection,
        details,
        answers,
        contest.categories,
        contest.catalogue,
        contest.data_rows,
    )
    comparison["gallery"] = {
        "shown": len(gallery["cards"]),
        "total": sum(selection.totals.values()),
        "fixed": selection.totals[FIXED],
        "broke": selection.totals[BROKE],
        **_said_of_images(a, b, details, contest.catalogue is not None),
    }
    try:
        with draft_directory(args.output) as draft:
            drawn = {**comparison["runs"], b: everyone(comparison)[b]}
            plots, confused = draw_all(contest.questions, answers, contest.categories, drawn, draft)
            text = page(comparison, plots=plots, confusions=confused, gallery=gallery)
            write_text(draft / "index.html", text)
            write_text(draft / JSON_FILE, to_json(comparison))
    except OSError as error:
        raise UserError(f"cannot write to {args.output}: {error}; choose another place") from error
    return comparison


def _details(
    name: str,
    contest: "Contest",
    selection: "Selection",
    runs: Variants,
    files: Variants,
    args: argparse.Namespace,
) -> "list[Detail] | None":
    """What the first seed of a variant says of the products to be shown."""
    from product_mil.compare.gather.sources import file_details, run_details

    if name in files:
        return file_details(files[name][0], contest.questions.product_id[selection.rows])
    assert contest.data_rows is not None
    if not len(selection.rows):
        return []
    rows = contest.data_rows[selection.rows]
    variant, _, rule = name.partition("/")
    found = run_details(runs[variant][0], args.checkpoint, args.data, rows)
    # A rule has the images' guesses of its run, and an answer of its own.
    return [dataclasses.replace(detail, top=[]) for detail in found] if rule else found


def _said_of_images(
    a: str, b: str, details: "dict[str, list[Detail] | None]", has_images: bool
) -> dict[str, Any]:
    """Whose guesses and attention stand under the images, and a remark on them."""
    alone = next((name for name in (b, a) if details[name]), None)
    listed = details[a] or []
    even = all(
        np.allclose(list(d.attention.values()), 1 / len(d.attention)) for d in listed if d.attention
    )
    remark = "" if has_images else "Without --data there are no images to show."
    if listed and even:
        remark += f" The head of {a} attends to all images of a product alike."
    if has_images and any(d.contribution for d in listed):
        remark += (
            f" “+3.1 for shoe” is what an image adds to the logit of the category that {a} "
            "chooses: together a product's images give how far it lies above the mean of all "
            "categories."
        )
    return {
        "alone_by": alone if has_images else None,
        "attention_by": a if listed and has_images else None,
        "remark": remark.strip(),
    }
