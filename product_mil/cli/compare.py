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
from collections.abc import Sequence
from pathlib import Path

from product_mil.cli import one_run
from product_mil.cli.console import command
from product_mil.cli.flags import add_batch_flag
from product_mil.cli.imports import add_import_flag
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path

Variants = dict[str, list[Path]]


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train if asked to, compare, write."""
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
    add_batch_flag(parser)
    add_import_flag(parser)
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
    from product_mil.compare.json_file import COMPARISON
    from product_mil.compare.page.sentences import verdict
    from product_mil.compare.page.tables import table_by_num_images, terminal_table
    from product_mil.compare.publish import PAGE_FILE, publish
    from product_mil.compare.training.side_by_side import Child
    from product_mil.compare.training.variants import rival_configs, train_rivals
    from product_mil.devices.runtime import configure_jax

    check_output(args.output, COMPARISON)
    configure_jax()
    configs = rival_configs(args.configs, [flag.removeprefix("--config.") for flag in overrides])
    poolings = {name: pooling_of(workdirs[0]) for name, workdirs in runs.items()}
    for more in (
        {name: one.config.model.pooling for name, one in configs.items()},
        dict.fromkeys(files, ""),
    ):
        if set(poolings) & set(more):
            raise UserError(f"{min(set(poolings) & set(more))} is named twice; give two names")
        poolings |= more
    headline_of(poolings, args.reference)  # refused now, not after the work
    if configs:
        child = Child(one_run.__name__, tuple(map(str, args.imports)))
        runs |= train_rivals(configs, args.seeds, args.output / "runs", child)
    gathered = gather(
        runs,
        files,
        args.data,
        checkpoint=args.checkpoint,
        images_per_batch=args.images_per_batch,
        reference=args.reference,
    )
    report = publish(gathered, runs, files, args.data, args.output, checkpoint=args.checkpoint)
    remarks = [*gathered.warnings, *gathered.notes]
    print(terminal_table(report), table_by_num_images(report), sep="\n\n", end="\n\n")
    print("".join(f"note: {remark}\n" for remark in remarks), end="")
    print(verdict(report))
    print(
        f"{args.output / PAGE_FILE}: open it in a browser; it and comparison.json have all "
        f"{len(report.comparison.differences)} pairs"
    )


def _check(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    for flag in overrides:
        if not (args.train and flag.startswith("--config.") and "=" in flag):
            raise UserError(f"{flag}: unknown argument; --config.field=value goes with --train")
    if args.train != bool(args.configs):
        raise UserError("--train and --configs name=configs/joint.py ... go together")
    if args.seeds < 1:
        raise UserError(f"--seeds={args.seeds}: must be at least 1")
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
        if "/" in name:
            raise UserError(f"{flag} {item}: a name must not hold '/'")
        for path in paths:
            if not path.exists():
                raise UserError(f"{flag} {item}: {path}: no such file or directory")
        found.setdefault(name, []).extend(paths)
    return found


if __name__ == "__main__":
    main()
