"""Backbones, heads and the classifier, which know neither labels nor data files."""
