"""The model and the two parts of a data set that a command, or a comparison, names by texts and numbers.

Invariant: no framework is imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from headstart.data import Dataset, open_data
from headstart.data.annotations import require_single
from headstart.features.trunk_keys import cut_of
from headstart.models.model import Model
from headstart.models.model import model as make_model
from headstart.models.weights import weights_for


def model_and_data(
    *,
    data: str,
    model: str,
    weights: str | None = None,
    size: int | None = None,
    head: str | Sequence[int | float] = "linear",
    cut: str | None = None,
    split: float = 0.8,
    seed: int = 0,
    on_error: str = "raise",
    split_by: str = "id",
) -> tuple[Model, Dataset, Dataset]:
    """(model, training data, validation data). `weights`: see `weights_for`. Raises DataError, SettingError and
    its kin, and CutError where `cut` is no legal cut of the model."""
    dataset = open_data(data, on_error=on_error)
    require_single(dataset, "training")
    train, val = dataset.split(split, seed, split_by)
    published = weights_for(model, weights)
    network = make_model(model, weights=published, classes=dataset.classes, head=head, size=size)
    if cut is not None:
        cut_of(network, cut)
    return network, train, val
