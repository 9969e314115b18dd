"""The runs that a comparison trains itself."""
