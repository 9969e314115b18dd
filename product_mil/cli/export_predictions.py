"""Predict the category of every product of BSON files with a trained run.

    python tools/export_predictions.py --workdir runs/joint --data test.bson \
        --output submission.csv.gz [--probabilities top.parquet] [--all_probabilities matrix/]

The submission has a row for each product, in file order; a product without a readable image gets
the most frequent category. Pictures and records that could not be read are listed in
<output>.bad_records.csv. `--min_confidence 0.9` adds <output>.levels.csv, for people who work on a
catalogue: the category where it is that sure, else its group at level 2 or 1.
"""

import argparse

from product_mil.cli.console import command
from product_mil.cli.flags import add_batch_flag, add_policy_flags, add_test_time_flags
from product_mil.cli.imports import add_import_flag
from product_mil.cli.outputs import add_output_flags, checked_outputs, last_lines
from product_mil.data.faults import FAULTS, faults_path
from product_mil.files.outputs import user_path


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check the outputs, open the run, predict."""
    parser = argparse.ArgumentParser(
        description="Predict the category of every product of BSON files with a trained run."
    )
    parser.add_argument(
        "--workdir", type=user_path, required=True, help="a trained run's directory"
    )
    parser.add_argument("--data", required=True, help="BSON file, glob, or several with commas")
    add_output_flags(parser)
    parser.add_argument(
        "--fit_on",
        help="labelled products for the calibration of --min_confidence "
        "(default: as the checkpoint was calibrated on the run's validation products)",
    )
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), default="last", help="default: last"
    )
    add_batch_flag(parser)
    add_import_flag(parser)
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    args = parser.parse_args(argv)
    outputs = checked_outputs(args, {faults_path(args.output): FAULTS})
    # JAX starts here, not for a wrong path.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.predict import predict
    from product_mil.runs.trained import open_run

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


if __name__ == "__main__":
    main()
