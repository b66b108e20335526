"""Where the data of a stage come from: features from the store, which are extracted now if need be, or decoded
images, through a frozen trunk or not."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np

from headstart.common.errors import DataWarning
from headstart.common.log import LOG
from headstart.common.progress import track
from headstart.contract.running import Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.loader import batches
from headstart.data.rows import pad
from headstart.features.batch_features import Observe
from headstart.features.extractor import Extractor
from headstart.features.feature_set import ExtractionStats, FeatureSet, merged
from headstart.features.inference import pixel_trunk
from headstart.features.trunk_keys import INPUT
from headstart.training.checks import features_at
from headstart.training.feeds import Feeds
from headstart.training.image_feed import Images
from headstart.training.job import TrainingJob
from headstart.training.moments import Moments
from headstart.training.placement import Placement, feeds_of, memory_limit, place_features
from headstart.training.standardizing import Readers, Standardization, mapping_trunk, readers


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
    standardization: Standardization | None = None
    """that the features are fed with"""


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
        trunk = extractors[0].batch_features.built_trunk or extractors[1].batch_features.built_trunk
        extraction = merged(features.stats for features in sets)
    free = job.backend.memory(job.place)
    placement = place_features(sets, node, job.batch_size, memory_limit(job.settings.memory), free)
    targets = [job.objective.targets(features) for features in sets]
    feeds = feeds_of(sets, node, placement, job.weights, targets)
    standardization = None
    if (linear := _mapped_into(job, node)) is not None:
        moments = Moments(linear.averaged)
        for rows, weights in feeds[0].stored():
            moments.add(rows, weights)
        _warn_of_rounding(moments, job, node)
        standardization = Standardization.of(moments, linear)
        for feed in feeds:
            feed.standardize(standardization)
    feeds_of_stage = Feeds(feeds[0], feeds[1] if len(feeds) > 1 else None, train, val)
    return Fed(feeds_of_stage, trunk, extraction, placement, standardization)


def _warn_of_rounding(moments: Moments, job: TrainingJob, node: str) -> None:
    """DataWarning where the training samples' features are the same but for rounding."""
    if (share := moments.rounding()) is not None:
        warnings.warn(
            f"{job.train.name}: the features at {node!r} are the same for all samples but for rounding: no "
            f"channel varies by more than {share:.0e} of its mean, and what is learned from that is noise. Take a "
            "trunk with trained weights or another cut, or, if they were stored in half precision, "
            'dtype="float32"',
            DataWarning,
            stacklevel=2,
        )


def extracted(job: TrainingJob, node: str) -> ExtractionStats:
    """Have the store hold the features of all of the job's training data at a node, as they are trained on and as
    they are evaluated."""
    assert isinstance(job.train, Dataset)
    extractors = [_extractor(job, node)]
    if job.settings.views is not None:
        extractors.append(_extractor(job, node, views=True))
    return merged([extractor(job.train).stats for extractor in extractors])


def _mapped_into(job: TrainingJob, cut: str) -> Readers | None:
    """The layers that a map of the features at `cut` goes into; None where they are trained on as they are: it was
    not asked for, no layer can take it, or a solver standardises by itself."""
    s = job.settings
    if not s.standardize or s.solver is not None or cut == INPUT:
        return None
    return readers(job.model.graph.after(cut, job.model.input_shape))


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
        batch_size=s.batch_size if s.extraction_batch is None else s.extraction_batch,
        workers=s.workers,
        cache=s.cache,
        augment=s.augmentation if views else None,
        views=s.views or 1 if views else 1,
        seed=s.seed,
        observe=_feature_check(job) if s.debug_nans else None,
        push=s.push,
        engine=s.engine,
    )


def _feature_check(job: TrainingJob) -> Observe:
    from headstart.training.nans.watch import FeatureCheck

    return FeatureCheck(job.model, job.backend, job.place)


def from_images(job: TrainingJob, node: str | None) -> Fed:
    """Decoded images, in every epoch anew; with a `node`, through the frozen trunk up to it."""
    assert isinstance(job.train, Dataset) and not isinstance(job.val, FeatureSet)
    trunk = None if node is None else pixel_trunk(job.model, [node], job.backend, job.place)
    runs, standardization, mapping = trunk, None, None
    if trunk is not None and node is not None:
        if (linear := _mapped_into(job, node)) is not None:
            moments = _moments(job, trunk, node, linear.averaged)
            _warn_of_rounding(moments, job, node)
            standardization = Standardization.of(moments, linear)
            shape = job.model.graph.shapes(job.model.input_shape)[node]
            mapping = mapping_trunk(standardization, shape, job.backend, job.place)
        if job.settings.debug_nans:
            from headstart.training.nans.watch import WatchedTrunk

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
            mapping,
        )

    train = feed(job.train, job.settings.augmentation, job.weights)
    feeds = Feeds(train, None if job.val is None else feed(job.val, None), job.train, job.val)
    return Fed(feeds, trunk, standardization=standardization)


def _moments(job: TrainingJob, trunk: Trunk, cut: str, averaged: bool) -> Moments:
    """Of the training images' features, as a cache would have them in its first view: one pass over them."""
    assert isinstance(job.train, Dataset)
    start, size, s = time.perf_counter(), job.batch_size, job.settings
    loader = batches(
        job.train,
        job.model.preprocess,
        np.arange(len(job.train)),
        size,
        workers=s.workers,
        augment=s.augmentation,
        seed=s.seed,
        epoch=0,
    )
    moments = Moments(averaged)
    with track("standardising features", -(-len(job.train) // size)) as advance:
        for batch in loader:
            features = job.backend.numpy(trunk.run(pad(batch.images, size))[cut])
            weights = None if job.weights is None else job.weights[batch.indices]
            moments.add(np.ascontiguousarray(features[: len(batch.ids)]), weights)
            advance()
    LOG.debug(
        "standardised features by one pass over %d training images, %.1f s",
        len(job.train),
        time.perf_counter() - start,
    )
    return moments
