"""Where everything lies that can be made or fetched again."""

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """$PRODUCT_MIL_CACHE, or `product_mil` in the user's cache directory."""
    chosen = os.environ.get("PRODUCT_MIL_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("product_mil"))
