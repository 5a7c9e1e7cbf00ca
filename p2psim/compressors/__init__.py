"""Compressors: vectors to bytes and back, one file each."""
