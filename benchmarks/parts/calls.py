"""Products that a program hands over: what one takes, and how many go through, beside the export.

    python -m benchmarks.parts.calls [--products 1000]

A run of one step is made first, with a net that learns, so that neither side reads a cache. Then
`Classifier.predict` gets drawn products from memory, one a call and all in one call, and
`tools/export_predictions.py`'s function the same ones from a BSON file that is indexed already.
"""

import tempfile
from pathlib import Path

import product_mil
from benchmarks.measure import in_turns, machine, parser, report, table
from benchmarks.parts.one_step_run import one_step_run
from product_mil.devices.runtime import configure_jax
from product_mil.inference.outputs import Outputs
from product_mil.runs.opening import open_run
from product_mil.runs.predict import predict

CALLS = 20  # of one product each


def main() -> None:
    arguments = parser("Products from memory, beside the export of the same ones")
    arguments.add_argument("--products", type=int, default=1000)
    arguments.add_argument("--size_px", type=int, default=180)
    args = arguments.parse_args()
    count = 40 if args.smoke else args.products
    configure_jax()
    size_px = 64 if args.smoke else args.size_px
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        products = one_step_run(root, num_products=count, size_px=size_px)
        spec = str(root / "drawn" / "products.bson")
        outputs = Outputs(root / "submission.csv")
        classifier, opened = product_mil.load(root / "run"), open_run(root / "run")

        def one_by_one() -> None:
            for product in products[:CALLS]:
                classifier.predict([product])

        best = in_turns(
            {
                "one": one_by_one,
                "all": lambda: classifier.predict(products),
                "export": lambda: predict(opened, spec, outputs),
            },
            args.rounds,
        )
    one_s, at_once, export = best["one"].wall_s / CALLS, best["all"], best["export"]
    rows = [
        [f"predict, one product a call, {CALLS} calls", f"{one_s * 1e3:.0f} ms a product", ""],
        *(
            [name, f"{found.wall_s:.1f} s", f"{len(products) / found.wall_s:.0f} products/s"]
            for name, found in (
                (f"predict, {len(products)} products in one call", at_once),
                ("export of the same products", export),
            )
        ),
    ]
    text = table(["", "wall", ""], rows)
    text += f"\n\n{export.cpu_s / at_once.cpu_s:.2f} times the export's rate by CPU time, "
    text += f"{export.wall_s / at_once.wall_s:.2f} by wall time"
    images = sum(map(len, products))
    about = f"{machine('jax')}; efficientnet_lite0, {images} images of {size_px} px"
    ratios = {"times the export, CPU": export.cpu_s / at_once.cpu_s}
    report(args, about, text, ratios)


if __name__ == "__main__":
    main()
