"""Checkpoints: what a training writes while it lasts, so that it can go on after it was killed."""
