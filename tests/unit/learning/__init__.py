"""Unit tests of p2psim.learning."""
