"""What commands do before they compute: make the model and the data that options name, and import a framework."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.cli.options import Source, TrainingSource, head_of
from headstart.cli.streams import quietly
from headstart.common.log import LOG

if TYPE_CHECKING:
    from headstart.data import Dataset
    from headstart.models import Model


def note_random_weights(source: Source) -> None:
    """Say that a network starts from random weights where nobody has asked for that."""
    from headstart.training.compare import chosen_weights

    if source.weights is None and chosen_weights(source.model, None) is None:
        LOG.info(
            f"note: {source.model} has no weights in this package, so it starts from random ones; "
            "pass --weights FILE.safetensors"
        )


def prepared(
    source: TrainingSource,
    backend: str,
    *,
    mode: str = "cached",
    cut: str | None = None,
    seed: int = 0,
    features: Path | None = None,
) -> tuple[Model, Any, Any]:
    """The model, and what it is trained and validated on: saved features where a folder of such is named, else
    the data."""
    from headstart.training.compare import Spec, prepare

    note_random_weights(source)
    if features is not None:
        return _saved(source, features, seed)
    return prepare(
        Spec(
            data=source.data,
            model=source.model,
            weights=source.weights,
            size=source.size,
            head=head_of(source.head),
            cut=cut,
            backends=(backend,),
            modes=(mode,),
            split=source.split,
            seed=seed,
            on_error=source.on_error,
            split_by=source.split_by,
        )
    )


def _saved(source: TrainingSource, folder: Path, seed: int) -> tuple[Model, Any, Any]:
    from headstart.features.loading import load_features
    from headstart.models.model import model
    from headstart.training.compare import chosen_weights

    train, val = load_features(folder).split(source.split, seed, source.split_by)
    weights = chosen_weights(source.model, source.weights)
    head = head_of(source.head)
    return model(source.model, weights=weights, classes=train.classes, head=head, size=source.size), train, val


def opened(source: Source) -> tuple[Model, Dataset]:
    """The model and all of the data, for features: these do not depend on the classifier, and some weights have
    none."""
    from headstart.data import open_data
    from headstart.models.model import model
    from headstart.training.compare import chosen_weights

    data = open_data(source.data, on_error=source.on_error)
    weights = chosen_weights(source.model, source.weights)
    return model(source.model, weights, data.classes, size=source.size), data


def import_quietly(backend: str, device: str, precision: str = "float32") -> None:
    """Import a framework and let it look for devices while its own chatter on standard error is put aside: some
    log there before any of their settings are read."""
    from headstart.contract import registry

    about = registry.describe(backend)
    for variable, value in about.quiet.items():
        os.environ.setdefault(variable, value)
    with quietly(watched=not any(module in sys.modules for module in about.modules)):
        registry.load(backend).place(device, precision)
