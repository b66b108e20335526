"""Saved feature sets, opened again. How they lie in their folder is in `headstart.features.packed`."""

from __future__ import annotations

import os

from headstart.common.places import expanded
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.packed import description_in, folder_in, samples_in
from headstart.store.feature_folder import FeatureFolder


def load_features(folder: str | os.PathLike[str]) -> FeatureSet:
    """The feature set that `FeatureSet.save` wrote: on any machine, for any backend, without the images. Nothing
    is written into the folder, which may be on a read-only medium. Rows are verified as they are read.

    Raises SavedFeaturesError where the folder holds none, or not all of it as it was saved; it names the file.
    """
    root = expanded(folder).absolute()
    about = description_in(root)
    ids, annotations = samples_in(root, about)
    opened: dict[str, FeatureFolder] = {}
    for _, views in about.cuts:
        for digest in views:
            if digest not in opened:
                opened[digest] = folder_in(root, digest, ids)
    made_by = {maker for stored in opened.values() for maker in stored.makers()}
    stats = ExtractionStats(0, len(set(ids)), 0.0, tuple(sorted(made_by)))
    folders = {cut: [opened[digest] for digest in views] for cut, views in about.cuts}
    return FeatureSet(about.name, ids, annotations, folders, stats, about.splits)
