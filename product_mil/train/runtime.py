"""How this program uses JAX: set in one place, before the first compilation."""

import jax
from absl import logging

from product_mil.cache import cache_root


def configure_jax() -> None:
    """Keep compiled programs between runs, and Orbax's running commentary out of the terminal."""
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
