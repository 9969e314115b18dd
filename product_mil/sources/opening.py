"""Open what a user names as the data, whatever source of products it is."""

from collections.abc import Sequence
from pathlib import Path

from product_mil.sources.bson.index import open_catalogue as open_bson
from product_mil.sources.catalogue import Catalogue


def open_catalogue(
    spec: str | Path | Sequence[str | Path],
    *,
    hash_images: bool = True,
    progress: bool = True,
    cache_dir: Path | None = None,
) -> Catalogue:
    """Open the products that `spec` names.

    It names MongoDB's dumps: a path, a glob (its matches are sorted), several of either joined by
    commas, or a sequence. The arguments are those of `bson.index.build_or_load_index`.

    Raises:
        UserError: nothing is there, or it is no source of products.
    """
    return open_bson(spec, hash_images=hash_images, progress=progress, cache_dir=cache_dir)
