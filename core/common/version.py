"""The version of headstart, as records and reports have it."""

__version__ = "0.1.0"
