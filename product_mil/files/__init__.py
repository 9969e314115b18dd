"""Files that appear whole or not at all, the cache, and what a file is by its first bytes."""
