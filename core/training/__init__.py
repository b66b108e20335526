"""Modes, optimisers and schedules as plain data, the training loop, and what it returns."""
