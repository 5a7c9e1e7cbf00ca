"""Unit tests of p2psim.network."""
