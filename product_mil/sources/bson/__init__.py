"""Dumps of MongoDB: an index of their products, found in one pass over the bytes."""
