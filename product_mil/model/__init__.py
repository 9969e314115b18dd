"""Backbones, pooling and the classifier; nothing here sees a label or a data file."""
