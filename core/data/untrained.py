"""A warning of classes that cannot be learned, as only the parts to validate and test on have them."""

from __future__ import annotations

import warnings

import numpy as np

from headstart.common.errors import DataWarning
from headstart.data.annotations import PARTS, REGRESSION, Annotations
from headstart.data.names import shown

SHOWN = 5


def warn_of_untrained(about: Annotations, name: str) -> None:
    """DataWarning where data came in parts, and the one to train on lacks a class or label of another. `name`:
    what to call the data."""
    of = about.parts
    train = None if of is None else np.flatnonzero(of == PARTS.index("train"))
    if train is None or not len(train) or about.task == REGRESSION:
        return
    to_train = about.rows(train).counts() > 0
    if not (elsewhere := [about.classes[k] for k in about.used().tolist() if not to_train[k]]):
        return
    more = f" and {len(elsewhere) - SHOWN} more" if len(elsewhere) > SHOWN else ""
    warnings.warn(
        f"{name}: the training part has no image of {', '.join(map(shown, elsewhere[:SHOWN]))}{more}, which other "
        "parts have: what is not trained is not recognised. Move some there, or leave the class out (--only, "
        "data.only([...]))",
        DataWarning,
        stacklevel=4,
    )
