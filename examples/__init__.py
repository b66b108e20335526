"""Experiments of the field's teaching material, on headstart's public interface:
`python -m examples.cached_block --small`."""
