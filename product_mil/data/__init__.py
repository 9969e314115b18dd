"""From a catalogue to packed batches, in NumPy arrays alone."""
