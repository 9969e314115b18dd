"""A comparison as sentences, tables and plots."""
