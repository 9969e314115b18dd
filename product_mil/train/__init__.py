"""Training: steps, losses, optimisers, checkpoints, and the loop over steps."""
