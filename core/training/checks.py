"""Checks of the data that `fit` and a finished run receive: their labels must be among the model's classes, and
features must be of the model's own trunk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from headstart.common.errors import CutError, DataError, DataWarning, SettingError
from headstart.common.log import LOG
from headstart.data import Dataset
from headstart.data.annotations import MULTI, SINGLE
from headstart.data.classes import Classes, aligned
from headstart.data.door import as_data_set, check_data_set
from headstart.data.names import normal
from headstart.data.samples import Samples
from headstart.features.feature_set import FeatureSet
from headstart.features.trunk_keys import INPUT, key_of
from headstart.models import Model
from headstart.store.keys import explain
from headstart.training.options import OPTIONS
from headstart.training.sample_weights import check_counting, check_learnable
from headstart.training.settings import Settings

OF_EXTRACTION = ("extraction_batch", "push", "engine")
"""options that features which are there do not read"""


def check_features_in_place_of_data(settings: Settings, train: Any, val: Any) -> None:
    """SettingError unless the mode is `cached`, which alone can train on features, and both are features."""
    if settings.mode != "cached":
        raise SettingError(f"mode {settings.mode!r} needs the images; on features only mode 'cached' can train")
    if settings.augmentation is not None or settings.views is not None:
        raise SettingError(
            "features were augmented, or not, when they were extracted; leave out augment= and views="
        )
    for name in OF_EXTRACTION:
        if getattr(settings, name) is not None:
            raise SettingError(f"{name}= is about features that are extracted, and these are; leave it out")
    for data in (train, val):
        there = data.folder(data.cuts[0]).dtype_name if isinstance(data, FeatureSet) else settings.dtype
        if settings.dtype not in (OPTIONS["dtype"].default, there):
            raise SettingError(
                f"dtype={settings.dtype!r} with features that are stored as {there}; leave it out, or extract "
                f"them with dtype={settings.dtype!r}"
            )
    if not isinstance(train, FeatureSet) or not isinstance(val, FeatureSet | None):
        kinds = [type(data).__name__ for data in (train, val)]
        raise SettingError(f"train is a {kinds[0]} and val a {kinds[1]}; expected data sets, or features of both")


def opened(train: Any, val: Any) -> tuple[Any, Any]:
    """Both as data sets where they are paths, or other libraries' sets; a folder for `val` by the classes of
    `train`, of which it may lack some, and a table by its task, which its own values may not tell."""
    train = as_data_set(train)
    if not isinstance(train, Samples):
        return train, as_data_set(val)
    if train.task != SINGLE:
        return train, as_data_set(val, task=train.task)
    return train, as_data_set(val, train.classes if train.named_classes else None)


def in_parts(train: Any, val: Any) -> tuple[Any, Any]:
    """What is trained and validated on, of data that came in named parts: their `train` and, if they have it,
    their `val`. Anything else as it is. SettingError where such data are to be trained on beside other `val`."""
    if isinstance(val, Samples) and val.annotations.parts is not None:
        val = val.val
    if not isinstance(train, Samples) or train.annotations.parts is None:
        return train, val
    if val is not None:
        raise SettingError(
            f"train came in the parts {', '.join(train.parts)}, and val is given as well; expected "
            "train=data.train with val, or data alone for its own parts"
        )
    return train.train, train.parts.get("val")


def tested_part(data: Any) -> Any:
    """What a run is evaluated on, of data that came in named parts: the one to test on, which is said. Anything
    else as it is. DataError for parts without that one."""
    if data.annotations.parts is None:
        return data
    if "test" not in data.parts:
        there = list(data.parts)
        raise DataError(
            f"{data.name} has the parts {', '.join(there)}, and no test part; pass the one that you mean, such as "
            f"data.{there[-1]}"
        )
    LOG.info("%s: its test part", data.name)
    return data.test


class Sets(NamedTuple):
    """The training and validation data, checked, with labels numbered as the model's classes are."""

    train: Dataset | FeatureSet
    val: Dataset | FeatureSet | None
    cut: str | None
    """the cut that the settings name; else the only one of the features, where there are features"""


def check_sets(model: Model, settings: Settings, train: Any, val: Any) -> Sets:
    """Check both data sets, and number their labels alike.

    Raises SettingError for what is neither data set nor features, or does not go with the settings; DataError for
    data that cannot be trained on, and for classes that differ.
    """
    kinds = (Dataset, FeatureSet) if settings.mode == "cached" else (Dataset,)
    train, val = opened(train, val)
    for argument, data in (("train", train), ("val", val)):
        if not isinstance(data, FeatureSet) and not (data is None and argument == "val"):
            check_data_set(data, argument, kinds)
    train, val = in_parts(train, val)
    cut = settings.cut
    if isinstance(train, FeatureSet) or isinstance(val, FeatureSet):
        check_features_in_place_of_data(settings, train, val)
        cut = cut or (train.cuts[0] if isinstance(train, FeatureSet) and len(train.cuts) == 1 else None)
    train, val = alike(model, train, val)
    check_data(model, train, "train")
    if val is not None:
        check_data(model, val, "val")
        warn_of_augmented(val, "validation data")
    elif settings.folds is not None:
        warn_of_augmented(train, "folds that are held out")
    return Sets(train, val, cut)


def warn_of_augmented(data: Any, what: str) -> None:
    """DataWarning for features of augmented pictures that are to be scored."""
    if isinstance(data, FeatureSet) and data.key(data.cuts[0]).spec["views"] is not None:
        warnings.warn(
            f"the features of the {what} are of augmented pictures, of which the first view is taken: what is "
            "scored is not the pictures as they are. Extract them without augment=",
            DataWarning,
            stacklevel=3,
        )


def alike(model: Model, train: Any, val: Any) -> tuple[Any, Any]:
    """Both with their labels numbered as the model's classes are: by name where the model's were named, else as
    the training data have them; where nothing has names, with as many classes. DataError where the classes differ,
    and where the labels are of another task."""
    if val is not None and val.task != train.task:
        raise DataError(
            f"the labels of the training data are of the task {train.task!r}, those of the validation data "
            f"{val.task!r}; expected the same of both"
        )
    # a model may have outputs that nobody has named, and the data names for fewer: of what are the others?
    fewer = train.task == SINGLE and len(train.classes) < len(model.classes)
    if model.named_classes or (train.task == SINGLE and not train.named_classes) or fewer:
        train = aligned(train, "the training data", _of_model(model))
    return train, None if val is None else aligned(val, "the validation data", reference(model, train))


def reference(model: Model, train: Any) -> Classes:
    """The classes by which other data than `train` are numbered."""
    if model.named_classes or not train.named_classes:
        return _of_model(model)
    return Classes(train.classes, True, "the training data")


def trained_classes(model: Model, facts: Mapping[str, Any]) -> Classes:
    """The classes of a finished run: the model's, or those of its training data, which the run's facts name."""
    names = facts.get("classes")
    if model.named_classes or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return _of_model(model)
    # runs of earlier versions do not say whether somebody chose the names
    if not facts.get("named_classes", names != [str(k) for k in range(len(names))]):
        return _of_model(model)
    return Classes(tuple(map(normal, names)), True, "the training data")


def _of_model(model: Model) -> Classes:
    return Classes(model.classes, model.named_classes, "the model")


def features_at(model: Model, features: FeatureSet, node: str) -> FeatureSet:
    """The features at one cut, under the node's own name. SettingError where there are none at that cut, or where
    they are not of the model's trunk with the very same weights."""
    cut = cut_in(features, model, node)
    _check_features(model, features, cut, node)
    return features.at(cut, node)


def _check_features(model: Model, features: FeatureSet, cut: str, node: str) -> None:
    for view in range(features.views):
        key = features.key(cut, view)
        spec = key.spec
        expected = key_of(model, node, precision=spec["precision"], dtype=spec["dtype"], views=spec["views"])
        if expected.digest != key.digest:
            raise SettingError(
                f"the features of {features.name!r} at {cut!r} come from another trunk than the model's "
                f"({key.label.get('model')} with weights {key.label.get('weights')}; the model is {model.name} "
                f"with {model.weights or 'random'}): {explain(expected.spec, [spec])}. Make the model that they "
                "were extracted with"
            )


def cut_in(features: FeatureSet, model: Model, node: str) -> str:
    """The name that the features have for the cut at `node`."""
    for cut in features.cuts:
        with suppress(CutError):  # a name of another model
            if cut != INPUT and model.graph.resolve(cut) == node:
                return cut
    raise SettingError(f"the features of {features.name!r} are of {', '.join(features.cuts)}, not of {node!r}")


def check_data(model: Model, data: Dataset | FeatureSet, what: str) -> None:
    """DataError unless the model can be trained or evaluated on `data`."""
    if not len(data):
        raise DataError(f"the {what} data set {data.name!r} is empty")
    if isinstance(data, Dataset):
        model.preprocess.check(data)
    check_labels(model, data, what)
    if what == "train":
        check_learnable(data, data.weights)


def check_labels(model: Model, data: Dataset | FeatureSet, what: str) -> None:
    """DataError unless there are samples, of which one at least counts, and the model has an output for each of
    their labels."""
    if not len(data):
        raise DataError(f"the {what} data set {data.name!r} is empty")
    check_counting(data)
    if data.task != SINGLE:
        if data.labels.shape[1] != len(model.classes):
            kind = "labels" if data.task == MULTI else "targets"
            raise DataError(
                f"the {what} data set has {data.labels.shape[1]} {kind} a sample, and the model "
                f"{len(model.classes)} outputs. Make the model with classes=data.classes"
            )
        if not np.isfinite(data.labels).all():
            raise DataError(f"the {what} data set {data.name!r} has targets that are not finite")
        return
    labels = np.unique(data.labels)
    if labels[0] < 0 or labels[-1] >= len(model.classes):
        raise DataError(
            f"the {what} data set has the label {labels[0] if labels[0] < 0 else labels[-1]}; the model has "
            f"{len(model.classes)} classes, so labels are 0 to {len(model.classes) - 1}. Make the model with "
            "classes=data.classes"
        )
