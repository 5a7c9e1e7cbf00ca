"""Unit tests of p2psim.models."""
