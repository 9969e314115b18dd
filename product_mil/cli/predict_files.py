r"""Predict any number of files with a trained run, in units that can stop and go on anywhere.

    product-mil predict-files --workdir runs/joint --data 'dumps/*.bson' --output predicted

    product-mil predict-files --workdir runs/joint --data 'dumps/*.bson' --output predicted \
        --shard 3 --of 100

A unit is a file, or a part of a large one. The same command goes on after a stop.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from product_mil.cli.console import command
from product_mil.cli.flags import (
    add_batch_flag,
    add_checkpoint_flag,
    add_data_flag,
    add_output_flag,
    add_policy_flags,
    add_test_time_flags,
    add_workdir_flag,
)
from product_mil.cli.imports import add_import_flag
from product_mil.cli.parser import CommandParser
from product_mil.cli.shards import Shard, add_shard_flags, shard_of
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path
from product_mil.runs.units import UNIT_MB, units_of

if TYPE_CHECKING:
    from product_mil.runs.predict_units import Engine, Job


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check the output, predict this process' share of the units."""
    args = _parser().parse_args(argv)
    shard = shard_of(args.shard, args.of, os.environ)
    _refuse_combinations(args, shard)
    from product_mil.inference.outputs import refuse_data
    from product_mil.runs.manifest import check_merged, merge, write_manifest
    from product_mil.runs.predict_units import Job, followed
    from product_mil.runs.unit_files import FAULT_LISTS, UNIT_FILES

    if args.topk < 1:
        raise UserError(f"--topk={args.topk}: must be at least 1")
    units = units_of(args.data, args.unit_mb)
    refuse_data(filter(None, (args.output, args.merge)), args.data)
    check_output(args.output, UNIT_FILES)
    job = Job(
        workdir=args.workdir,
        output=args.output,
        unit_mb=args.unit_mb,
        checkpoint=args.checkpoint,
        topk=args.topk,
        views=args.tta,
        tau=args.logit_adjustment,
        images_per_batch=args.images_per_batch,
        bad_records=args.bad_records,
        bad_images=args.bad_images,
    )
    if args.merge is not None:
        check_merged(job.files, args.merge)
    own = units[shard.k :: shard.n]
    with _engine(args, job) as engine:
        print(engine.begin(own))
        share = f": {len(own)} of them in share {shard.k} of {shard.n}" * (shard.n > 1)
        print(f"{len(units)} units{share}; writing {args.output}", flush=True)
        tally = followed(engine.outcomes(own), len(own))
    print(f"units predicted: {tally.predicted}, done before: {tally.skipped}")
    summary = write_manifest(job.files, units, unique_ids=args.unique_ids)
    if args.merge is not None and not tally.failed:
        print(f"{args.merge}: {merge(job.files, units, args.merge):,} products")
    if summary is None:
        summary = "other shares are not done yet: the last one writes the manifest"
        if tally.num_faults:
            listings = job.files.directory / FAULT_LISTS
            summary += f"; faults in this share: {tally.num_faults:,}, see {listings}"
    print(summary)
    if tally.failed:
        name, reason = next(iter(tally.failed.items()))
        unmerged = f"{args.merge} was not written, because it takes all units; "
        raise UserError(
            f"{len(tally.failed)} of {len(own)} units could not be predicted, such as {name}: "
            f"{reason}; {unmerged * (args.merge is not None)}the same command tries them again"
        )


def _parser() -> CommandParser:
    parser = CommandParser("predict-files", __doc__)
    add_workdir_flag(parser, required=True)
    add_data_flag(parser, required=True)
    add_output_flag(parser, "DIR", "for all files; or go on")
    add_shard_flags(parser)
    parser.add_argument(
        "--unit_mb",
        type=float,
        default=UNIT_MB,
        metavar="MB",
        help="larger files are parted (default: 1000)",
    )
    parser.add_argument(
        "--merge", type=user_path, metavar="FILE", help="in the end also one .csv of all"
    )
    parser.add_argument(
        "--unique_ids", action="store_true", help="do not look for ids in several files"
    )
    parser.add_argument("--engine", choices=("here", "ray"), default="here", help="default: here")
    parser.add_argument("--address", metavar="RAY", help="of a Ray cluster (default: this machine)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="of Ray (default: a GPU or host each)"
    )
    parser.add_argument("--topk", type=int, default=10, metavar="N", help="classes (default: 10)")
    add_checkpoint_flag(parser)
    add_batch_flag(parser)
    add_import_flag(parser)
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    return parser


def _refuse_combinations(args: argparse.Namespace, shard: Shard) -> None:
    if args.merge is not None and shard.n > 1:
        raise UserError("--merge: when all shares are done, call the same command without a share")
    if args.engine == "here" and (args.address is not None or args.workers is not None):
        raise UserError("--address and --workers are for --engine ray")


@contextmanager
def _engine(args: argparse.Namespace, job: "Job") -> "Iterator[Engine]":
    if args.engine == "ray":
        from product_mil.runs.engines.ray_actors import ray_engine

        with ray_engine(job, args.address, args.workers, args.imports) as engine:
            yield engine
    else:
        from product_mil.devices.runtime import configure_jax
        from product_mil.runs.predict_units import UnitPredictor

        configure_jax()
        yield UnitPredictor(job)
