"""The final block of a residual network, trained on cached features."""
