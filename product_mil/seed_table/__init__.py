"""Every system of the report in one table."""
