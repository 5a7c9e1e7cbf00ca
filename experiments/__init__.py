"""Experiments, and what they must show."""
