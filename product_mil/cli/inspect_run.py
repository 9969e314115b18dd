"""Show what the attention of a trained run has learned.

    product-mil inspect-run --workdir runs/joint --data products.bson

Prints the categories whose images count most and least (of pooling posterior_attention) and, with
--data, how much attention images get whose own guess is the product's prediction, and those whose
guess is another, relative to the uniform share. Labels are not read.
"""

import json
from typing import Any

from product_mil.cli.console import command
from product_mil.cli.flags import (
    add_batch_flag,
    add_checkpoint_flag,
    add_data_flag,
    add_workdir_flag,
)
from product_mil.cli.imports import add_import_flag
from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError
from product_mil.text import table


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, open the run, print."""
    parser = CommandParser("inspect-run", __doc__)
    add_workdir_flag(parser, required=True)
    add_data_flag(parser, required=False)
    add_checkpoint_flag(parser)
    parser.add_argument(
        "--rows", type=int, default=10, metavar="N", help="categories at either end (default: 10)"
    )
    add_batch_flag(parser)
    add_import_flag(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    args = parser.parse_args(argv)
    if args.rows < 1:
        raise UserError(f"--rows={args.rows}: must be at least 1")
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.inspection import inspect_run
    from product_mil.runs.opening import open_run

    configure_jax()
    run = open_run(args.workdir, args.checkpoint)
    found = inspect_run(run, args.data, args.images_per_batch)
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print("\n".join([run.summary, *lines_of(found, args.rows)]))


def lines_of(found: dict[str, Any], rows: int) -> list[str]:
    """The same for people."""
    from product_mil.model.registry import head

    pooling, lines = found["pooling"], []
    if "trust" in found:
        one, several = found["trust"].values()
        lines.append(
            f"trust in the joint correction: {one:g} with one image, {several:g} with several"
            + (": attention changes no prediction" if several == 0 else "")
        )
    if not head(pooling).attends:
        return [*lines, f"{pooling} has no attention: all images of a product count alike"]
    if found["relevance"]:
        lines += _relevance_lines(found["relevance"], rows)
    else:
        lines.append(f"{pooling} scores no categories: there is no table of their relevance")
    if found["attention"]:
        lines.append("attention relative to the uniform share, by the image's own guess")
        cells = [("images", "as predicted", "another category")]
        for row in found["attention"]:
            of = "several" if row["num_images"] is None else str(row["num_images"])
            cells.append((of, _side(row, "agreeing"), _side(row, "disagreeing")))
        lines += table(cells, (">10", ">24", ">24"), gap=" ")
    else:
        lines.append("--data FILE shows whose images get the attention")
    return lines


def _side(row: dict[str, Any], name: str) -> str:
    share = row[f"attention_of_{name}"]
    shown = "-" if share is None else f"{share:.2f}"
    return f"{shown:>8} ({row[name]:>7} images)"


def _relevance_lines(relevance: list[dict[str, Any]], rows: int) -> list[str]:
    """The two ends of the table, or all of it where it is short."""
    listed = [
        f"{row['relevance']:+8.2f}  {row['category_id']}  {' > '.join(row['category'])}"
        for row in relevance
    ]
    if len(listed) > 2 * rows:
        listed = [*listed[:rows], f"     ...  {len(listed) - 2 * rows} more", *listed[-rows:]]
    head = "relevance of an image that looks like a category; 0.7 more is twice the attention"
    return [head, *listed]
