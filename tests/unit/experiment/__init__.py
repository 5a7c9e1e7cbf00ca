"""Unit tests of p2psim.experiment."""
