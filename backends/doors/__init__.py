"""The doors of frameworks that others stand on, too: Keras runs on JAX or torch. Each needs its framework alone,
and not what else its backend imports."""
