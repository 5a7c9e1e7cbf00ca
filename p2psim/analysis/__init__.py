"""The analysis of runs: tables, plots, timeline, monitor."""
