"""Pretrained weights: files, their formats, and loading them into a net."""
