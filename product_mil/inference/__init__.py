"""Predictions of a model for batches, their metrics, their calibration and their files."""
