"""LP-FT, in distribution and out of it."""
