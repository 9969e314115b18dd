"""Layers and blocks of the nets."""
