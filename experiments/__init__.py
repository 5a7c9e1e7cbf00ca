"""Experiments with the claims that their runs must support."""
