"""Unit tests of the experiments of papers."""
