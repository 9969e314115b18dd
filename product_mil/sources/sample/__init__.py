"""The sample that the package draws itself."""
