"""The numbers of the formats that files of this package carry, and the refusal of unknown ones."""

from collections.abc import Container

from product_mil.errors import UserError
from product_mil.version import __version__


def refuse_unknown_format(
    found: object, known: Container[object], version: object, place: object
) -> None:
    """Refuse what is of a format that this version does not know.

    `version` is the one that wrote it, and `place` says where it was found.

    Raises:
        UserError: in one line.
    """
    if found not in known:
        raise UserError(
            f"{place} is of format {found}, written by product_mil {version}; this is product_mil "
            f"{__version__}, which does not know it: use that version"
        )
