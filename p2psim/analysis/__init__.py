"""Analysis of run folders: tables, plots, timeline, monitor."""
