"""Reproduction of papers: runs, figures, claims and reports."""
