"""Combine the predictions of several models."""
