"""What `fit` and a finished run demand of what they are given: labels that the model has, features of its own
trunk."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from headstart.data import Dataset
from headstart.errors import CutError, DataError, SettingError
from headstart.features.extract import INPUT, key_of
from headstart.features.feature_set import FeatureSet
from headstart.features.keys import explain
from headstart.models import Model
from headstart.training.settings import Settings


def check_given(settings: Settings, train: Any, val: Any) -> None:
    """Features in place of data sets go with mode `cached` only, and with each other."""
    if settings.mode != "cached":
        raise SettingError(f"mode {settings.mode!r} needs the images; on features only mode 'cached' can train")
    if settings.augmentation is not None or settings.views is not None:
        raise SettingError(
            "features were augmented, or not, when they were extracted; leave out augment= and views="
        )
    if not isinstance(train, FeatureSet) or not isinstance(val, FeatureSet | None):
        kinds = [type(one).__name__ for one in (train, val)]
        raise SettingError(f"train is a {kinds[0]} and val a {kinds[1]}; expected data sets, or features of both")


def check_sets(
    model: Model, settings: Settings, train: Dataset | FeatureSet, val: Dataset | FeatureSet | None
) -> str | None:
    """Check both; returns the cut asked for, or where none was, the only one that given features have."""
    cut = settings.cut
    if isinstance(train, FeatureSet) or isinstance(val, FeatureSet):
        check_given(settings, train, val)
        cut = cut or (train.cuts[0] if isinstance(train, FeatureSet) and len(train.cuts) == 1 else None)
    check_data(model, train, "train")
    if val is not None:
        check_data(model, val, "val")
    return cut


def features_at(model: Model, features: FeatureSet, node: str) -> FeatureSet:
    """The features at one cut, under the node's own name. SettingError unless they are there, and what the model's
    trunk gives, to the bit of its weights."""
    cut = _cut_in(features, model, node)
    _check_features(model, features, cut, node)
    return features.at(cut, node)


def _check_features(model: Model, features: FeatureSet, cut: str, node: str) -> None:
    for view in range(features.views):
        key = features.key(cut, view)
        spec = key.spec
        wanted = key_of(model, node, precision=spec["precision"], dtype=spec["dtype"], views=spec["views"])
        if wanted.digest != key.digest:
            raise SettingError(
                f"the features of {features.name!r} at {cut!r} come from another trunk than the model's "
                f"({key.label.get('model')} with weights {key.label.get('weights')}; the model is {model.name} "
                f"with {model.weights or 'random'}): {explain(wanted.spec, [spec])}. Make the model that they "
                "were extracted with"
            )


def _cut_in(features: FeatureSet, model: Model, node: str) -> str:
    """What the features call a cut."""
    for cut in features.cuts:
        with suppress(CutError):  # a name of another model
            if cut != INPUT and model.graph.resolve(cut) == node:
                return cut
    raise SettingError(f"the features of {features.name!r} are of {', '.join(features.cuts)}, not of {node!r}")


def check_data(model: Model, data: Dataset | FeatureSet, what: str) -> None:
    """DataError unless the model can be trained or evaluated on them."""
    if not len(data):
        raise DataError(f"the {what} data set {data.name!r} is empty")
    if isinstance(data, Dataset):
        model.preprocess.check(data)
    check_labels(model, data, what)
    if what == "train" and len(np.unique(data.labels)) < 2:
        raise DataError(f"all {len(data)} training samples are of one class; at least two are needed")


def check_labels(model: Model, data: Dataset | FeatureSet, what: str) -> None:
    """DataError unless there are samples, and their labels and classes are the model's."""
    if not len(data):
        raise DataError(f"the {what} data set {data.name!r} is empty")
    labels = np.unique(data.labels)
    if labels[0] < 0 or labels[-1] >= len(model.classes):
        raise DataError(
            f"the {what} data set has the label {labels[0] if labels[0] < 0 else labels[-1]}; the model has "
            f"{len(model.classes)} classes, so labels are 0 to {len(model.classes) - 1}. Make the model with "
            "classes=data.classes"
        )
    if model.named_classes and data.classes != model.classes:
        raise DataError(
            f"the {what} data's classes {_few(data.classes)} are not the model's {_few(model.classes)}; "
            "make the model with classes=data.classes"
        )


def _few(names: tuple[str, ...]) -> str:
    return f"[{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}]"
