"""Unit tests of p2psim.compressors."""
