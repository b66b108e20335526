"""Permissions, as they hold for people who are not root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, as permissions do not hold root back."""
    user = os.geteuid()
    if user == 0:
        try:
            os.seteuid(65534)
        except OSError:
            pytest.skip("root without another user to become")
    try:
        yield
    finally:
        os.seteuid(user)
