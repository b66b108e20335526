"""Neural style transfer from a trunk's cuts."""
