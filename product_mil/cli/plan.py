"""What it takes to predict very many products: hours, network, memory and storage.

    product-mil plan --products 30e9 --hosts 100
    product-mil plan --products 7e6 --data train.bson --workdir runs/joint

Index, decoding and the net are measured here, in some seconds. Each line says how it is known.
docs/guide/scale.md explains the model.
"""

import os

from product_mil.cli.console import command
from product_mil.cli.flags import add_data_flag, add_workdir_flag
from product_mil.cli.parser import CommandParser
from product_mil.runs.scale import Machines, plan, refuse_out_of_bounds
from product_mil.runs.units import UNIT_MB


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, measure, print."""
    parser = CommandParser("plan", __doc__)
    parser.add_argument("--products", type=float, required=True, metavar="N", help="such as 30e9")
    parser.add_argument("--hosts", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--cores", type=int, metavar="N", help="of a host (default: as here)")
    parser.add_argument("--devices", type=int, metavar="N", help="of a host (default: as here)")
    parser.add_argument(
        "--gbit_per_s",
        type=float,
        default=10.0,
        metavar="G",
        help="a host reads (default: 10)",
    )
    parser.add_argument(
        "--images_per_s", type=float, metavar="R", help="of a device (default: measured here)"
    )
    parser.add_argument(
        "--unit_mb", type=float, default=UNIT_MB, metavar="MB", help="as in predict-files"
    )
    add_data_flag(parser, required=False)
    add_workdir_flag(parser, required=False)
    args = parser.parse_args(argv)
    for name in ("products", "images_per_s", "unit_mb"):
        value = getattr(args, name)
        if value is not None:
            refuse_out_of_bounds(name, value)
    cores = args.cores or os.cpu_count() or 1
    Machines(args.hosts, cores, args.devices or 1, args.gbit_per_s)  # refused before it is measured
    import jax

    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.measure_scale import measured_rates

    configure_jax()
    devices = args.devices or jax.device_count()
    machines = Machines(args.hosts, cores, devices, args.gbit_per_s)
    rates = measured_rates(args.data, args.workdir, args.images_per_s)
    print(rates.about)
    print(plan(args.products, machines, rates, args.unit_mb).text)
