"""Arithmetic of a study: rank correlation, bootstrap, noise ceiling, prediction metrics. Knows arrays and tables only."""
