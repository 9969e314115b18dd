"""Product categories from all the photos of a product, jointly."""

__version__ = "0.1.0"
