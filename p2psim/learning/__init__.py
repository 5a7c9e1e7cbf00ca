"""Local learning on one peer: rules, optimizers, learning-rate schedules, 8-bit arithmetic."""
