"""Statistics of the answers of several entries, and of their differences."""
