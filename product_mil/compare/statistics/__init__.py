"""What the answers of several systems say about their differences."""
