"""`compare_modes`: the modes one after the other in this process, for models and data that are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.door import check_data_set
from headstart.features.feature_set import FeatureSet
from headstart.models import Model, check_model
from headstart.training.checks import alike, in_parts, opened
from headstart.training.comparison import Comparison, Listener, add_run, new_comparison, start_framework
from headstart.training.fit import fit
from headstart.training.modes import MODES
from headstart.training.run_record import data_facts
from headstart.training.settings import modes_named, options_by_mode
from headstart.training.signatures import check_keywords, documented, with_defaults
from headstart.training.unheeded import among

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.keywords import CompareModesOptions


@documented
def compare_modes(
    model: Model,
    train: Dataset | FeatureSet,
    val: Dataset | FeatureSet | None = None,
    modes: str | Sequence[str] = tuple(MODES),
    *,
    listener: Listener = lambda event: None,
    **options: Unpack[CompareModesOptions],
) -> Comparison:
    """Train `model` in these modes one after the other, in this process, on one backend.

    The way for models that are at hand, such as one that `hs.wrap` made, of which no other process could be told.
    The options are those of `hs.fit`; each goes to the modes that read it, and one that none of them reads is
    refused. `listener`: is called with {"event": "row", "row": ...} after each.
    """
    check_keywords("compare_modes", options)
    check_model(model)
    modes = modes_named(modes)
    name = registry.choose(options.get("backend"), model.home)
    runs = options_by_mode(modes, {**with_defaults("compare_modes", options), "backend": name})
    train, val = opened(train, val)
    for argument, data in (("train", train), ("val", val)):
        if data is not None or argument == "train":
            check_data_set(data, argument, (Dataset, FeatureSet))
    train, val = alike(model, *in_parts(train, val))
    comparison = new_comparison(
        data_facts(train, val), model.describe(), {"modes": list(modes), "backends": [name]}
    )
    start_framework(name, options)
    for settings in runs:
        with among(modes):
            run = fit(model, train, val, **settings)
        comparison["settings"] = {**run.settings, **comparison["settings"]}
        listener({"event": "row", "row": add_run(comparison, run)})
    return comparison
