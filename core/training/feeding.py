"""Where the data of a stage come from: features from the store, which are extracted now if need be, or decoded
images, through a frozen trunk or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.contract.running import Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.features.extract import Extractor
from headstart.features.feature_set import ExtractionStats, FeatureSet, merged
from headstart.features.inference import pixel_trunk
from headstart.training.checks import features_at
from headstart.training.feeds import Feeds, Images
from headstart.training.job import TrainingJob
from headstart.training.nans.watch import FeatureCheck, WatchedTrunk
from headstart.training.placement import Placement, feeds_of, memory_limit, place_features


@dataclass(frozen=True)
class Fed:
    """The feeds of a stage, and the extraction that filled them."""

    feeds: Feeds
    trunk: Trunk | None = None
    """the frozen trunk, if one was run or runs"""
    extraction: ExtractionStats | None = None
    """of features"""
    placement: Placement | None = None
    """of features"""


def from_cache(job: TrainingJob, node: str) -> Fed:
    """Features at a node, extracted now unless the job's data are features already."""
    train, val, trunk = job.train, job.val, None
    if isinstance(train, FeatureSet):
        sets = [features_at(job.model, data, node) for data in (train, val) if isinstance(data, FeatureSet)]
        made_by = {maker for features in sets for maker in features.stats.made_by}
        reused = sum(len(features) * features.views for features in sets)
        extraction = ExtractionStats(0, reused, 0.0, tuple(sorted(made_by)))
    else:
        plain = _extractor(job, node)  # for both where it can be: a trunk is built and compiled once
        extractors = [plain if job.settings.views is None else _extractor(job, node, views=True), plain]
        pairs = zip(extractors, (train, val), strict=True)
        sets = [extractor(data) for extractor, data in pairs if isinstance(data, Dataset)]
        trunk = extractors[0].built_trunk or extractors[1].built_trunk
        extraction = merged(features.stats for features in sets)
    free = job.backend.memory(job.place)
    placement = place_features(sets, node, job.batch_size, memory_limit(job.settings.memory), free)
    targets = [job.objective.targets(features) for features in sets]
    feeds = feeds_of(sets, node, placement, job.weights, targets)
    return Fed(Feeds(feeds[0], feeds[1] if len(feeds) > 1 else None, train, val), trunk, extraction, placement)


def _extractor(job: TrainingJob, node: str, views: bool = False) -> Extractor:
    """`views`: whether it extracts the augmented views that the settings ask for; else the images as they are."""
    s = job.settings
    return Extractor(
        job.model,
        [node],
        backend=job.backend.name,
        device=s.device,
        precision=s.precision,
        dtype=s.dtype,
        batch_size=s.batch_size,
        workers=s.workers,
        cache=s.cache,
        augment=s.augmentation if views else None,
        views=s.views or 1 if views else 1,
        seed=s.seed,
        observe=FeatureCheck(job.model, job.backend, job.place) if s.debug_nans else None,
    )


def from_images(job: TrainingJob, node: str | None) -> Fed:
    """Decoded images, in every epoch anew; with a `node`, through the frozen trunk up to it."""
    assert isinstance(job.train, Dataset) and not isinstance(job.val, FeatureSet)
    trunk = None if node is None else pixel_trunk(job.model, [node], job.backend, job.place)
    runs = trunk
    if trunk is not None and node is not None and job.settings.debug_nans:
        runs = WatchedTrunk(trunk, job.model, node, job.backend, job.place)

    def feed(data: Dataset, augment: Augment | None, weights: np.ndarray | None = None) -> Images:
        s = job.settings
        return Images(
            data,
            job.model.preprocess,
            job.batch_size,
            runs,
            node,
            augment,
            s.seed,
            s.workers,
            weights,
            job.objective.targets(data),
        )

    train = feed(job.train, job.settings.augmentation, job.weights)
    return Fed(Feeds(train, None if job.val is None else feed(job.val, None), job.train, job.val), trunk)
