r"""Predict the category of every product of some data with a trained run.

    product-mil predict --workdir runs/joint --data test.bson --output submission.csv

The submission has a row for each product, in file order; a product without a readable image gets
the most frequent category. Images and records that could not be read are listed in
<output>.bad_records.csv.
"""

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
from product_mil.cli.outputs import add_output_flags, checked_outputs, last_lines
from product_mil.cli.parser import CommandParser
from product_mil.data.faults import FAULTS, faults_path


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check the outputs, open the run, predict."""
    parser = CommandParser("predict", __doc__)
    add_workdir_flag(parser, required=True)
    add_data_flag(parser, required=True)
    add_output_flags(parser)
    parser.add_argument(
        "--fit_on",
        metavar="DATA",
        help="labelled products that --min_confidence is calibrated on (default: the run's own "
        "validation products, as its checkpoint says)",
    )
    add_checkpoint_flag(parser)
    add_batch_flag(parser)
    add_import_flag(parser)
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    args = parser.parse_args(argv)
    outputs = checked_outputs(args, {faults_path(args.output): FAULTS})
    # JAX starts here, not for a wrong path.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.opening import open_run
    from product_mil.runs.predict import predict

    configure_jax()
    run = open_run(args.workdir, args.checkpoint)
    named = filter(None, (args.output, args.probabilities, args.all_probabilities))
    print(f"{run.summary}\nwriting {', '.join(map(str, named))}", flush=True)
    written = predict(
        run,
        args.data,
        outputs,
        images_per_batch=args.images_per_batch,
        views=args.tta,
        tau=args.logit_adjustment,
        fit_on=args.fit_on,
        bad_records=args.bad_records,
        bad_images=args.bad_images,
    )
    line = (
        f"{args.output}: {written.num_products} products, {written.num_images} images in "
        f"{written.spent_s:.1f} s, {written.num_images / max(written.spent_s, 1e-9):.0f} images/s"
    )
    print("\n".join([line, *last_lines(written, outputs)]))
