"""`p2psim doctor`: what goes wrong on real machines, looked for before it does."""
