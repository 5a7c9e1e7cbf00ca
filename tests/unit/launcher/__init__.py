"""Unit tests of p2psim.launcher."""
