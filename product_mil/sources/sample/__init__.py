"""The embedded sample: a catalogue of products whose images this package draws."""
