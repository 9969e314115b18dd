"""From a model and batches to predictions, and what can be said of them."""
