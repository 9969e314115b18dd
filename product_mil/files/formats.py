"""Refuse files whose format number this version does not know."""

from collections.abc import Container

from product_mil.errors import UserError
from product_mil.version import __version__


def refuse_unknown_format(
    found: object, known: Container[object], version: object, place: object
) -> None:
    """Check that the format number `found` is a `known` one.

    `version` of product_mil wrote the file, and `place` names it in the message.

    Raises:
        UserError: the format is unknown.
    """
    if found not in known:
        raise UserError(
            f"{place} is of format {found}, written by product_mil {version}; this is product_mil "
            f"{__version__}, which does not know it: use that version"
        )
