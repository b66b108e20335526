"""`compare_modes`: the modes one after the other in this process, for models and data that are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.door import check_data_set
from headstart.features.feature_set import FeatureSet
from headstart.models import Model, check_model
from headstart.training.checks import alike
from headstart.training.comparison import Comparison, Listener, add_run, new_comparison
from headstart.training.fit import fit
from headstart.training.modes import MODES
from headstart.training.run_record import data_facts


def compare_modes(
    model: Model,
    train: Dataset | FeatureSet,
    val: Dataset | FeatureSet | None,
    modes: Sequence[str] = tuple(MODES),
    *,
    backend: str | None = None,
    listener: Listener = lambda event: None,
    **settings: Any,
) -> Comparison:
    """Train `model` in these modes one after the other, in this process, on one backend.

    The way for models that are at hand, such as one that `hs.wrap` made, of which no other process could be told.
    `settings`: of `hs.fit`. `listener`: is called with {"event": "row", "row": ...} after each.
    """
    check_model(model)
    name = registry.choose(backend, model.home)
    for argument, data in (("train", train), ("val", val)):
        if data is not None or argument == "train":
            check_data_set(data, argument, (Dataset, FeatureSet))
    train, val = alike(model, train, val)
    report = new_comparison(data_facts(train, val), model.describe(), {"modes": list(modes), "backends": [name]})
    for mode in modes:
        run = fit(model, train, val, mode=mode, backend=name, **settings)
        report["settings"] = {**run.settings, **report["settings"]}
        listener({"event": "row", "row": add_run(report, run)})
    return report
