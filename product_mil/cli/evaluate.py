"""Measure a trained run on any labelled products, as training measures its validation part.

    product-mil evaluate --workdir runs/joint --data labelled.bson
    product-mil evaluate --predictions ensemble.parquet --data labelled.bson

`--predictions` takes what `product-mil predict` and `product-mil ensemble` write: --probabilities,
--all_probabilities or a submission, which has a first guess alone.
"""

import json

from product_mil.cli.console import command
from product_mil.cli.flags import (
    add_batch_flag,
    add_checkpoint_flag,
    add_data_flag,
    add_policy_flags,
    add_test_time_flags,
    add_workdir_flag,
)
from product_mil.cli.imports import add_import_flag
from product_mil.cli.parser import CommandParser
from product_mil.data.faults import FAULTS
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path
from product_mil.inference.outputs import refuse_data


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, open the run, score, print."""
    parser = CommandParser("evaluate", __doc__)
    add_workdir_flag(parser, required=False)
    parser.add_argument(
        "--predictions", type=user_path, metavar="FILE", help="predictions in place of a run"
    )
    add_data_flag(parser, required=True)
    add_checkpoint_flag(parser)
    add_batch_flag(parser)
    parser.add_argument(
        "--faults", type=user_path, metavar="FILE", help="list in this .csv what is unreadable"
    )
    add_import_flag(parser)
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    args = parser.parse_args(argv)
    if (args.workdir is None) == (args.predictions is None):
        raise UserError("name a run with --workdir or a file with --predictions, one of the two")
    if args.predictions is not None and (
        args.tta != "none" or args.logit_adjustment or args.faults is not None
    ):
        raise UserError("--tta, --logit_adjustment and --faults go with --workdir alone")
    if args.faults is not None:
        refuse_data([args.faults], args.data)
        check_output(args.faults, FAULTS)
    # JAX starts here, not for a typing error.
    from product_mil.compare.gather.evaluate import evaluate_file
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.evaluate import evaluate
    from product_mil.runs.opening import open_run
    from product_mil.train.log import metrics_table

    configure_jax()
    if args.predictions is not None:
        metrics, remarks, known = evaluate_file(args.predictions, args.data)
    else:
        run = open_run(args.workdir, args.checkpoint)
        if not args.json:
            print(run.summary, flush=True)
        metrics, remarks, known = evaluate(
            run,
            args.data,
            images_per_batch=args.images_per_batch,
            views=args.tta,
            tau=args.logit_adjustment,
            listing=args.faults,
            bad_records=args.bad_records,
            bad_images=args.bad_images,
        )
    name = str(args.workdir or f"the run behind {args.predictions}")
    said = f"whether {name} has seen these products is unknown"
    if known is not None:
        said = known.sentence(name)
    if args.json:
        print(json.dumps({**metrics, "remarks": [*remarks, said]}, indent=1))
    else:
        print("\n".join([said, metrics_table(metrics, f"{args.data}:"), *remarks]))
