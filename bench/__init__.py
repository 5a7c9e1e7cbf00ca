"""Benchmarks: each compares two programs side by side and reports a ratio (`make bench`)."""
