"""A configuration and the directory of its run."""
