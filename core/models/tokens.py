"""What a fresh classifier gets of a wrapped module's tokens: the first, where the module gives the logits that its
own classifier makes of that one, else the mean of all.

Invariant: a mean over tokens is said; where the module itself takes another token, it is a warning.
"""

from __future__ import annotations

import warnings

import numpy as np

from headstart.common.errors import DataWarning
from headstart.common.log import LOG
from headstart.graph import Shape
from headstart.models.endings import ENDINGS

FIRST, MEAN, OTHER = "first_token", "mean_tokens", "another token"
CLOSE = 1e-3  # of the largest logit: nothing of low precision is farther off


def pooling(logits: np.ndarray, end: np.ndarray) -> str:
    """What a module takes of its tokens: the ops `FIRST` or `MEAN`, `OTHER` for one token that is not the first in
    all samples, or "" for anything else, such as a sum or the greatest of each class.

    `logits`: `(n, t, classes)`, what its own classifier makes of every token. `end`: `(n, classes)`, what it gives
    for the same samples. Where several fit, as of a classifier that begins at zero, it is the mean."""
    tokens, found = logits.astype(np.float64), set[str]()
    for made in ENDINGS.values():
        ends = made(tokens)
        if any(_are_close(rows, end).all() for rows in (made(tokens.mean(1)), ends.mean(1))):
            found.add(MEAN)
        same = _are_close(ends, end[:, None])  # of each sample, which tokens are what the module gives
        if same[:, 0].all():
            found.add(FIRST)
        elif same.any(1).all():
            found.add(OTHER)
    return next((way for way in (MEAN, FIRST, OTHER) if way in found), "")


def _are_close(rows: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of `(..., classes)`, which rows are the same."""
    same: np.ndarray = np.abs(rows - end).max(-1) <= CLOSE * np.abs(end).max(initial=0.0)
    return same


def told_pooling(logits: np.ndarray | None, end: np.ndarray | None, shape: Shape, called: str, cut: str) -> str:
    """The op for a fresh classifier on the tokens that the module `called` so gives at `cut`, `shape` a sample;
    what has to be known of it is said. `logits`, `end`: see `pooling`; None, or an end that is no row for each
    sample, where nothing is known of what the module does."""
    way = ""
    if logits is not None and end is not None and end.shape == (len(logits), logits.shape[2]):
        way = pooling(logits, end)
    about = f"{shape[0]} tokens that {called} gives at {cut!r}"
    if way == FIRST:
        LOG.info("a fresh classifier gets the first of the %s, of which %s itself takes the logits", about, called)
        return FIRST
    if way == OTHER:
        warnings.warn(
            f"a fresh classifier gets the mean of the {about}, and {called} itself takes the logits of one that "
            "is not the first. To have that one, take it before the module's own classifier, as in "
            "head(x[:, -1]) for head(x)[:, -1]; or pass a module as head",
            DataWarning,
            stacklevel=4,
        )
    else:
        LOG.info("a fresh classifier gets the mean of the %s", about)
    return MEAN
