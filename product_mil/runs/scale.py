"""What prediction of very many products takes: hours, network, memory and storage, by a model.

docs/guide/scale.md explains the model, and docs/measured/scale.md has figures to check it against.
"""

import math
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from product_mil.errors import UserError
from product_mil.text import duration, table

# Measured with Cdiscount's shape of data (docs/measured/scale.md).
INDEX_BYTES = 89.0  # a product, on disk
TABLE_BYTES = 87.0  # a product, in the Parquet files of top classes
CSV_BYTES = 21.0  # a product
IDS_BYTES = 9.0  # a product, in memory, to find ids that repeat
MEASURED, SAMPLE, ASSUMED, GIVEN = "measured", "sample", "assumed", "given"


@dataclass(frozen=True)
class Rates:
    """What a product or an image takes, and how each number is known."""

    product_bytes: float  # of the file
    images_per_product: float
    index_s: float  # of a core, for a product
    decode_s: float  # of a core, for an image
    forward_s: float  # of a device, for an image
    process_bytes: float  # of memory
    basis: dict[str, str] = field(default_factory=dict)  # of each field; else it is assumed
    about: str = ""  # a line on what was measured


@dataclass(frozen=True)
class Machines:
    """The machines that predict; all are alike."""

    hosts: int
    cores: int  # of a host
    devices: int  # of a host
    gbit_per_s: float  # that a host reads

    def __post_init__(self) -> None:
        """Raise `UserError` if there is none of something."""
        for one in fields(self):
            value = getattr(self, one.name)
            refuse_out_of_bounds(one.name, float(value))


def refuse_out_of_bounds(name: str, value: float) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        UserError: it is not; the message names the flag.
    """
    if not 0 < value < math.inf:
        raise UserError(f"--{name}={value:g}: must be more than 0, and finite")


class Line(NamedTuple):
    """A line of the plan, as text."""

    what: str
    of_all: str
    of_a_host: str
    basis: str


class Plan(NamedTuple):
    """What prediction takes."""

    hours: float
    limit: str  # what takes longest
    lines: list[Line]

    @property
    def text(self) -> str:
        """The table for people."""
        heading = Line("", "all", "a host", "")
        aligned = table([heading, *self.lines], "<>><")
        return "\n".join(
            [*aligned, f"at least {duration(3600 * self.hours)}, limited by {self.limit}"]
        )


def plan(products: float, machines: Machines, rates: Rates, unit_mb: float) -> Plan:
    """What it takes to predict so many products.

    A host reads each byte once. It indexes on one core, and meanwhile no image of the file is
    decoded. Then decoding on all cores, the net on all devices and reading go on side by side, and
    the slowest one decides.
    """
    hosts, cores, devices = machines.hosts, machines.cores, machines.devices
    images = products * rates.images_per_product
    data_bytes = products * rates.product_bytes
    index_h, decode_h, forward_h = (
        seconds / 3600
        for seconds in (products * rates.index_s, images * rates.decode_s, images * rates.forward_s)
    )
    network_h = data_bytes * 8 / (machines.gbit_per_s * 1e9) / 3600
    side_by_side = {
        "decoding": decode_h / (hosts * cores),
        "the net": forward_h / (hosts * devices),
    }
    indexed_h = index_h / hosts
    computed_h = indexed_h + max(side_by_side.values())
    limits = {
        "the network": network_h / hosts,
        max(side_by_side, key=lambda name: side_by_side[name]): computed_h,
    }
    limit = max(limits, key=lambda name: limits[name])
    units = max(products * rates.product_bytes / (unit_mb * 1e6), 1)

    def basis(*names: str) -> str:
        return ", ".join(dict.fromkeys(rates.basis.get(name, ASSUMED) for name in names))

    def storage(what: str, bytes_each: float) -> Line:
        of_all = products * bytes_each
        return Line(what, _bytes(of_all), _bytes(of_all / hosts), ASSUMED)

    per_image = ("images_per_product",)
    lines = [
        Line("products", f"{products:,.0f}", f"{products / hosts:,.0f}", GIVEN),
        Line("images", f"{images:,.0f}", f"{images / hosts:,.0f}", basis(*per_image)),
        Line("data", _bytes(data_bytes), _bytes(data_bytes / hosts), basis("product_bytes")),
        Line("units", f"{units:,.0f}", f"{units / hosts:,.0f}", basis("product_bytes")),
        Line("index", f"{index_h:,.1f} core-h", _hours(indexed_h), basis("index_s")),
        Line(
            "network",
            f"{network_h:,.1f} host-h",
            _hours(network_h / hosts),
            f"{GIVEN}: {machines.gbit_per_s:g} Gb/s",
        ),
        Line(
            "decode",
            f"{decode_h:,.1f} core-h",
            _hours(side_by_side["decoding"]),
            basis("decode_s", *per_image),
        ),
        Line(
            "net",
            f"{forward_h:,.1f} device-h",
            _hours(side_by_side["the net"]),
            basis("forward_s", *per_image),
        ),
        Line("memory of a process", "", _bytes(rates.process_bytes), basis("process_bytes")),
        Line(
            "memory for repeated ids (--unique_ids: none)",
            _bytes(products * IDS_BYTES),
            "",
            ASSUMED,
        ),
        storage("indexes on disk", INDEX_BYTES),
        storage("Parquet files", TABLE_BYTES),
        storage("CSV files", CSV_BYTES),
    ]
    return Plan(limits[limit], limit, lines)


def _hours(hours: float) -> str:
    return duration(3600 * hours)


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e6:,.1f} MB"
