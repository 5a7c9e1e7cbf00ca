"""The experiment: file, sweep, scenario, plan, catalog of plug-ins."""
