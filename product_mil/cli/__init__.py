"""The commands: they parse, print and choose exit codes."""
