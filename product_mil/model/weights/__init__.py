"""Pretrained weights: files, their formats and their way into a net."""
