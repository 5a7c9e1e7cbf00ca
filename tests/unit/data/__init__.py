"""Unit tests of p2psim.data."""
