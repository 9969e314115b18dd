"""The address of a MongoDB collection, and the fields of its documents that are read."""

import re
from pathlib import Path
from typing import NamedTuple

from product_mil.errors import UserError

_ADDRESS = re.compile(
    r"(?P<scheme>mongodb(?:\+srv)?://)(?:(?P<user>.*)@)?(?P<hosts>[^/?#@]+)"
    r"/(?P<database>[^/?#.]+)\.(?P<collection>[^?#]+)(?P<options>\?[^#]*)?(?:#(?P<fields>.*))?"
)
_FORM = "mongodb://HOST/DATABASE.COLLECTION"


class Fields(NamedTuple):
    """The names of fields; a dot leads into a document, or into each document of a list."""

    id: str = "_id"
    category: str = "category_id"
    images: str = "imgs.picture"


class Address(NamedTuple):
    """A collection of a server."""

    uri: str  # of the server, without a password
    user: str | None
    hosts: str
    database: str
    collection: str
    fields: Fields

    @property
    def shown(self) -> Path:
        """The name for messages."""
        name = f"{self.hosts}/{self.database}.{self.collection}"
        own = [f"{use}={name}" for use, name in self.fields._asdict().items()]
        changed = [text for text, default in zip(own, Fields(), strict=True) if default not in text]
        return Path(f"{name}#{','.join(changed)}" if changed else name)


def parse(text: str) -> Address:
    """Read an address such as `mongodb://host/shop.products#id=sku,images=photos.data`.

    No message repeats the address, which may hold a password.

    Raises:
        UserError: it has another form, or a password.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise UserError(f"the address of a MongoDB collection has the form {_FORM}")
    user = found["user"]
    if user is not None and ":" in user:
        raise UserError(
            f"leave the password out of the address (mongodb://USER@{found['hosts']}/...), which "
            "is written to the run's directory; set the variable MONGODB_PASSWORD instead"
        )
    fields = Fields()
    for part in filter(None, (found["fields"] or "").split(",")):
        use, equals, name = part.partition("=")
        if use not in Fields._fields or not equals or not name:
            raise UserError(
                f"{_FORM}#{found['fields']}: name fields as in #id=sku,category=shelf,"
                "images=photos.data"
            )
        fields = fields._replace(**{use: name})
    hosts = found["hosts"]
    return Address(
        f"{found['scheme']}{hosts}/{found['database']}{found['options'] or ''}",
        user,
        hosts,
        found["database"],
        found["collection"],
        fields,
    )
