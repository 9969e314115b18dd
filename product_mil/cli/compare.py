r"""Compare trained runs on labelled products, with statistics and a page that shows why.

    product-mil compare --runs joint=runs/joint averaged=runs/averaged \
        --data labelled.bson --output comparison
    product-mil compare --train --seeds 3 --data labelled.bson --output comparison \
        --configs joint=joint:laptop averaged=averaged:laptop \
        --config.data.train=train.bson

A further variant is one more of --configs, such as mean=joint:laptop,model.pooling=mean. Several
seeds of a variant are its runs with commas (`--runs joint=DIR1,DIR2`) or its name again. The output
directory gets comparison.json, index.html and the plots.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from product_mil.cli import one_run
from product_mil.cli.console import command
from product_mil.cli.flags import (
    add_batch_flag,
    add_checkpoint_flag,
    add_data_flag,
    add_output_flag,
)
from product_mil.cli.imports import add_import_flag
from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError
from product_mil.files.hub import is_on_hub
from product_mil.files.outputs import check_output, user_path
from product_mil.inference.outputs import refuse_data

Variants = dict[str, list[Path]]


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, train if asked to, compare, write."""
    parser = CommandParser("compare", __doc__)
    _add_named(parser, "--runs", "NAME=DIR", "trained runs")
    _add_named(parser, "--predictions", "NAME=FILE", "what product-mil predict wrote")
    add_data_flag(parser, required=False)
    add_output_flag(parser, "DIR", "for the results")
    add_checkpoint_flag(parser)
    add_batch_flag(parser)
    add_import_flag(parser)
    parser.add_argument("--train", action="store_true", help="train the variants of --configs")
    _add_named(parser, "--configs", "NAME=CONFIG", "such as joint=joint:laptop")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each variant")
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="a variant that the others are compared with, or a rule such as "
        "averaged/geometric_mean (default: the last averaging variant, else the last one)",
    )
    args, overrides = parser.parse_known_args(argv)
    _check(args, overrides)
    runs, files = _named(args.runs, "--runs"), _named(args.predictions, "--predictions")
    for name, path in ((name, path) for name, paths in runs.items() for path in paths):
        if not (path.is_dir() or is_on_hub(path)):
            raise UserError(f"--runs {name}={path}: it is no run's directory, but a file")
    # JAX starts here, not for a typing error.
    from product_mil.compare.gather.gather import gather
    from product_mil.compare.gather.headline import headline_of, pooling_of
    from product_mil.compare.json_file import COMPARISON
    from product_mil.compare.page.sentences import verdict
    from product_mil.compare.page.tables import table_by_num_images, terminal_table
    from product_mil.compare.publish import PAGE_FILE, publish
    from product_mil.compare.training.side_by_side import Child
    from product_mil.compare.training.variants import train_variants, variants_of
    from product_mil.devices.runtime import configure_jax

    refuse_data([args.output], args.data)
    check_output(args.output, COMPARISON)
    configure_jax()
    configs = variants_of(args.configs, [flag.removeprefix("--config.") for flag in overrides])
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
        runs |= train_variants(configs, args.seeds, args.output / "runs", child)
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


def _add_named(parser: CommandParser, flag: str, metavar: str, about: str) -> None:
    parser.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=about)


def _check(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    for flag in overrides:
        if not (args.train and flag.startswith("--config.") and "=" in flag):
            raise UserError(f"{flag}: unknown argument; --config.field=value goes with --train")
    if args.train != bool(args.configs):
        raise UserError("--train and --configs joint=joint:laptop ... go together")
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
            if not (path.exists() or is_on_hub(path)):
                raise UserError(f"{flag} {item}: {path}: no such file or directory")
        found.setdefault(name, []).extend(paths)
    return found
