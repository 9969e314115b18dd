"""Dumps of MongoDB, and the index of their products, which one pass over the bytes makes."""
