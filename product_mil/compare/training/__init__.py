"""Training of the runs that a comparison is asked to train itself."""
