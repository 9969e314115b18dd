"""The systems of the seed report, side by side: planned, trained within a budget, tabulated."""
