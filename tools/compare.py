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

from product_mil.console import command
from product_mil.errors import UserError
from product_mil.files import check_output, draft_directory, user_path, write_text

if TYPE_CHECKING:
    from product_mil.compare.gallery import Detail, Selection
    from product_mil.contest.gather import Contest

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
    args, overrides = parser.parse_known_args(argv)
    _check(args, overrides)
    runs, files = _named(args.runs, "--runs"), _named(args.predictions, "--predictions")
    # JAX starts here, not for a typing error.
    from product_mil.compare.report import COMPARISON, table
    from product_mil.contest.gather import gather
    from product_mil.train.runtime import configure_jax

    check_output(args.output, COMPARISON)
    configure_jax()
    if args.train:
        runs |= train(args, overrides)
    if set(runs) & set(files):
        raise UserError(f"{min(set(runs) & set(files))} names a run and a file; give two names")
    contest = gather(
        runs,
        files,
        args.data,
        checkpoint=args.checkpoint,
        images_per_batch=args.images_per_batch,
    )
    comparison = publish(contest, runs, files, args)
    remarks = [*contest.warnings, *contest.notes]
    print("\n".join([table(comparison), *(f"note: {remark}" for remark in remarks)]))
    print(f"{args.output / 'index.html'}: open it in a browser")


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


def train(args: argparse.Namespace, overrides: Sequence[str]) -> Variants:
    """Train every variant of --configs from every seed, or find it trained.

    Raises:
        UserError: configurations that are wrong, or would not be a fair comparison.
    """
    from product_mil.build.check import check_config
    from product_mil.config import load_config, override, refuse
    from product_mil.contest.fairness import differing_fields, unfair_fields
    from product_mil.limits import problems
    from product_mil.run import run

    common = [flag.removeprefix("--config.") for flag in overrides]
    configs = {}
    for item in args.configs:
        name, equals, rest = item.partition("=")
        spec, *own = rest.split(",")
        if not equals or not name or "/" in name or "_minus_" in name or name in configs:
            raise UserError(f"--configs {item}: expected NAME=configs/joint.py, each name once")
        pairs = [text.partition("=") for text in [*common, *own]]
        assignments = [(field, value) for field, _, value in pairs]
        configs[name], errors = override(load_config(spec), assignments)
        refuse([*errors, *problems(configs[name]), *check_config(configs[name])])
    unfair = unfair_fields(differing_fields(configs))
    if unfair:
        raise UserError(
            "the configurations are no equal rivals: they differ in "
            + ", ".join(f"config.{key}" for key in unfair)
            + "; set these alike, or train the runs yourself and name them with --runs"
        )
    found: Variants = {name: [] for name in configs}
    for seed in range(args.seeds):
        for name, config in configs.items():
            workdir = args.output / "runs" / f"{name}-{config.seed + seed}"
            run(dataclasses.replace(config, seed=config.seed + seed), workdir)
            found[name].append(workdir)
    return found


def publish(
    contest: "Contest", runs: Variants, files: Variants, args: argparse.Namespace
) -> dict[str, Any]:
    """Compute everything and write it, whole or not at all."""
    from datetime import UTC, datetime

    import product_mil
    from product_mil.compare.comparison import compare, control
    from product_mil.compare.figures import draw_all
    from product_mil.compare.gallery import BROKE, FIXED, cards, select
    from product_mil.compare.report import JSON_FILE, page, to_json
    from product_mil.contest.fairness import unfair_fields

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
        **_said_of_photos(a, b, details, contest.catalogue is not None),
    }
    try:
        with draft_directory(args.output) as draft:
            plots, confused = draw_all(
                contest.questions, answers, contest.categories, comparison["runs"], draft
            )
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
    from product_mil.contest.sources import file_details, run_details

    if name in files:
        return file_details(files[name][0], contest.questions.product_id[selection.rows])
    assert contest.data_rows is not None
    if not len(selection.rows):
        return []
    rows = contest.data_rows[selection.rows]
    return run_details(runs[name][0], args.checkpoint, args.data, rows)


def _said_of_photos(
    a: str, b: str, details: "dict[str, list[Detail] | None]", has_photos: bool
) -> dict[str, Any]:
    """Whose guesses and attention stand under the photos, and a remark on them."""
    alone = next((name for name in (b, a) if details[name]), None)
    listed = details[a] or []
    even = all(
        np.allclose(list(d.attention.values()), 1 / len(d.attention)) for d in listed if d.attention
    )
    remark = "" if has_photos else "Without --data there are no photos to show."
    if listed and even:
        remark += f" The head of {a} attends to all photos of a product alike."
    if has_photos and any(d.contribution for d in listed):
        remark += (
            f" “+3.1 for shoe” is what an image adds to the logit of the category that {a} "
            "chooses: together a product's images give how far it lies above the mean of all "
            "categories."
        )
    return {
        "alone_by": alone if has_photos else None,
        "attention_by": a if listed and has_photos else None,
        "remark": remark.strip(),
    }


if __name__ == "__main__":
    main()
