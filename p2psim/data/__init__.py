"""Data sets, partitions of them among peers, readers of their files, downloads."""
