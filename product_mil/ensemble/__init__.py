"""Several models' predictions, combined."""
