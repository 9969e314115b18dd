"""The answers of runs and of files to the same products."""
