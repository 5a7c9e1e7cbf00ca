"""Unit tests of p2psim.analysis."""
