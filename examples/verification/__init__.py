"""A Siamese verification head on cached features."""
