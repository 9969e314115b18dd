"""From a configuration to the objects of a run. The last room that sees the configuration."""
