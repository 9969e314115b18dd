"""From BSON files to packed batches of pixels; nothing here uses JAX arrays."""
