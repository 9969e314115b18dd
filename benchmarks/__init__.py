"""Measurements, run in the checkout: `python -m benchmarks.parts.loader`, for one."""
