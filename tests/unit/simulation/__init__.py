"""Unit tests of p2psim.simulation."""
