"""Steps, optimisers, checkpoints and the loop over them."""
