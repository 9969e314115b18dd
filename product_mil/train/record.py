"""The format and the version in the record of a run."""

from collections.abc import Mapping
from typing import Any

from product_mil.files.formats import refuse_unknown_format
from product_mil.version import __version__

VALIDATION = "validation"  # in a checkpoint's record: its metrics, where it was evaluated
FORMAT = 1  # of a run's JSON files and of a checkpoint's record; the oldest have none, which is 0


def marked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the number of its format and the version that wrote it."""
    return {"format": FORMAT, "version": __version__, **record}


def refuse_newer(record: Mapping[str, Any], place: object) -> None:
    """Refuse a record of a format that this version does not know.

    Raises:
        UserError: the format is unknown; the message has `place` and the version that wrote it.
    """
    known = range(FORMAT + 1)
    refuse_unknown_format(record.get("format", 0), known, record.get("version", "?"), place)
