"""What commands do before they compute: make the model and the data that options name, and import a framework."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.cli.options import (
    COLUMNS,
    TRAINING_SOURCE,
    DataSource,
    Source,
    TrainingSource,
    head_of,
    names_in,
    values_of,
)
from headstart.cli.streams import quietly
from headstart.common.errors import DeviceWarning
from headstart.common.log import LOG

if TYPE_CHECKING:
    from headstart.data import Dataset
    from headstart.features.feature_set import FeatureSet
    from headstart.models import Model
    from headstart.training.opening import Prepared

OF_IMAGES = ("data", "on_error", "truncated", *COLUMNS)
"""options of data that saved features do not read"""


def note_random_weights(source: Source) -> None:
    """Say that a network starts from random weights where nobody has asked for that."""
    from headstart.models.weights import weights_for

    if source.model is not None and source.weights is None and weights_for(source.model, None) is None:
        LOG.info(
            f"note: {source.model} has no weights in this package, so it starts from random ones; "
            "pass --weights FILE.safetensors"
        )


def ready(
    source: TrainingSource,
    settings: Any,
    *,
    seed: int = 0,
    features: Path | None = None,
    out: Path | None = None,
    cuts: Sequence[str] = (),
) -> tuple[Prepared, dict[str, Any]]:
    """(model and data, keyword arguments), with which `fit`, `sweep` and `plan` begin. The data are the saved
    features in the folder `features`, if one is named. The keyword arguments are what `settings` mean; the backend
    among them is chosen and imported.

    `seed`: of the split, where the settings have none. `out`: the folder that will be written, which is checked
    first, and not after the training. `cuts`: further ones than the settings' that are named.
    """
    from headstart.common.outputs import check_outputs
    from headstart.contract import registry
    from headstart.data.copies import warn_of_test_copies
    from headstart.training.modes import keep_memory_for
    from headstart.training.opening import model_and_data
    from headstart.training.settings import options_by_mode

    check_outputs(out)
    values = values_of(settings)
    values["backend"] = backend = registry.choose(settings.backend)
    keep_memory_for(backend, [values.get("mode", "cached")])
    seed, cut, folds = values.get("seed", seed), values.get("cut"), values.get("folds")
    options_by_mode([values.get("mode", "cached")], {"seed": seed, **values})
    note_random_weights(source)
    if features is not None:
        prepared = _saved(source, features, seed, folds, "folds" in values)
    else:
        named = vars(source) | {"head": head_of(source.head), "only": source.classes()}
        named = {name: value for name, value in named.items() if name not in COLUMNS}
        named |= {"folds": folds, "in_folds": "folds" in values}
        prepared = model_and_data(**named, columns=source.columns(), cut=cut, cuts=cuts, seed=seed)
    check_outputs(out, nbytes=sum(array.nbytes for array in prepared.model.params.values()))
    if prepared.test is not None:
        warn_of_test_copies(prepared.test, prepared.train, prepared.val)
    import_quietly(backend, settings.device, settings.precision)
    return prepared, values


def _saved(source: TrainingSource, folder: Path, seed: int, folds: int | None, in_folds: bool) -> Prepared:
    from headstart.data import opening
    from headstart.data.summary import say_before
    from headstart.features.loading import load_features
    from headstart.models.default_model import model_line
    from headstart.models.model import model
    from headstart.models.weights import weights_for
    from headstart.training.opening import Prepared

    if named := [name for name in OF_IMAGES if getattr(source, name) != getattr(TRAINING_SOURCE, name)]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        LOG.warning(
            "%s with --features %s: said of images, which are not read; features have their labels, groups, "
            "folds and weights with them",
            flags,
            folder,
        )
    parts = opening.opened(
        str(folder),
        lambda name, like: load_features(name),
        val=source.val,
        test=source.test,
        only=source.classes(),
        split=source.split,
        seed=seed,
        split_by=source.split_by,
        folds=folds,
        in_folds=in_folds,
    )
    name, weights = source.model, source.weights
    if name is None:
        name, extracted_with = _trunk_of(parts.train)
        weights = extracted_with if weights is None else weights
    head = head_of(source.head)
    made = model(
        name,
        weights_for(name, weights),
        classes=parts.train.classes,
        head=head,
        size=source.size,
        decode=source.decode,
    )
    say_before(parts.train, model_line(made))
    return Prepared(made, *parts)


def _trunk_of(features: FeatureSet) -> tuple[str, str | None]:
    """The model and the weights, as --weights has them, whose features these are, as far as a name tells."""
    from headstart.models import ARCHITECTURES, imported
    from headstart.models.default_model import SHIPPED

    label = features.key().label
    name, weights = str(label.get("model")), str(label.get("weights"))
    arch = ARCHITECTURES.get(name)
    if arch is None:
        return SHIPPED, None
    if weights == "random":
        return name, "none"
    return name, weights if weights in arch.weights or imported.find(name, weights) is not None else None


def opened(source: Source, cuts: str | None = None) -> tuple[Model, Dataset]:
    """The model and all of the data, for features: these do not depend on the classifier, and some weights have
    none. `cuts`: those that are asked for, comma-separated."""
    from headstart.data.summary import say_before
    from headstart.models.default_model import Default, model_line
    from headstart.models.model import model
    from headstart.models.weights import weights_for
    from headstart.training.opening import model_for

    data = data_of(source)
    default = (
        Default(source.model, "")
        if source.model is not None
        else model_for(source.data, source.weights, names_in(cuts or ""))
    )
    weights = weights_for(default.name, source.weights)
    made = model(default.name, weights, data.classes, size=source.size, decode=source.decode)
    say_before(data, model_line(made, default.why))
    return made, data


def data_of(source: DataSource) -> Dataset:
    """All of the data."""
    from headstart.data import open_data
    from headstart.data.table import Columns

    columns = Columns(**(source.columns() or {}))
    data = open_data(source.data, source.on_error, columns=columns, truncated=source.truncated)
    return data if (classes := source.classes()) is None else data.only(classes)


def import_quietly(backend: str, device: str, precision: str = "float32") -> None:
    """Import a framework and let it look for devices. What it logs to standard error meanwhile is put aside: some
    log there before any of their settings are read. No garbage is looked for later in what a process imports
    first, as it stays: a search through all of a framework takes 0.1 s."""
    from headstart.contract import registry

    about = registry.describe(backend)
    for variable, value in about.quiet.items():
        os.environ.setdefault(variable, value)
    # of any backend: the export of one's run is written by another's framework, beside the first one's threads
    modules = (module for name in registry.installed() for module in registry.describe(name).modules)
    first = not any(module in sys.modules for module in modules)
    with warnings.catch_warnings(), quietly(watched=first):
        # of a device that does not compute: it is told of when the place is decided in earnest, not put aside
        warnings.simplefilter("ignore", DeviceWarning)
        registry.load(backend).place(device, precision)
    if first:
        gc.freeze()
