"""Implementation of `p2psim doctor`: checks of the machine, the software and an experiment."""
