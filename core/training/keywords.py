"""The keyword arguments of the functions that take options, for editors and type checkers.

Written from `options` by `python -m headstart.training.write_keywords`; what is changed here is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from headstart.contract.optimizers import Optimizer, Schedule
    from headstart.data.augment import Augment
    from headstart.features.engines.settings import Ray
    from headstart.training.history import OnEpoch


class _Fit(TypedDict, total=False):
    """Taken by fit."""

    mode: str
    """scratch, full, frozen, cached or staged."""
    solver: str | None
    """Solve for the head instead of stepping: ridge or logistic; for one linear layer, in mode cached."""
    checkpoint: str | Path | None
    """Keep the best epoch's run, and all that it takes to go on, in this folder while it trains."""
    resume: str | Path | None
    """Go on with the training whose checkpoint is in this folder, and keep it there."""


class _FitCompareCompareModesSweep(TypedDict, total=False):
    """Taken by fit, compare, compare_modes, sweep."""

    cut: str | None
    """Last node of the frozen trunk; see `headstart models NAME`."""
    schedule: str | Schedule
    """constant or cosine."""
    warmup: float | None
    """Share of the steps in which the learning rate rises."""
    label_smoothing: float
    """Label smoothing, 0 to 1."""
    class_weights: str | Mapping[str, float] | None
    """How much samples count by their class: balanced (all classes alike), or daisy=2,roses=0.5."""
    pos_weight: str | Mapping[str, float] | None
    """With several labels a sample, how much their being there counts: balanced, or daisy=2,roses=0.5."""
    threshold: float | str | None
    """With several labels a sample, the probability above which one is predicted; best: by validation."""
    huber: float | None
    """With numbers as labels, errors above so many standard deviations count in proportion, not squared."""
    standardize: bool
    """Train a linear head on standardised features; what comes of it is a plain layer all the same."""
    seed: int
    """Seed of all that is drawn: split, order, initial weights, dropout and augmentation."""
    monitor: str | None
    """The validation score by which the best epoch is kept, such as val_accuracy; none: the last epoch."""
    min_delta: float
    """By how much an epoch has to be better; of others the earliest is kept."""


class _FitSweepPlanCompareCompareModes(TypedDict, total=False):
    """Taken by fit, sweep, plan, compare, compare_modes."""

    batch_size: int
    """Samples a step, at most: all steps of an epoch have as many."""
    optimizer: str | Optimizer | None
    """adamw or sgd."""
    epochs: int | None
    """Epochs of training, just so many."""
    device: str
    """auto, cpu, cuda or cuda:N; mps, xpu or tpu where the backend has it."""
    precision: str
    """Arithmetic: float32, tf32, bfloat16 or, for frozen trunks, float16."""
    workers: int | None
    """Threads that decode images."""
    dtype: str
    """Type of stored features: float16, float32 or bfloat16."""
    cache: str | Path | None
    """Folder of the feature store."""
    memory: int | str | None
    """Bytes of cached features held at once, such as 512MB; more are streamed."""


class _FitCompareCompareModes(TypedDict, total=False):
    """Taken by fit, compare, compare_modes."""

    lr: float | None
    """Learning rate."""
    lr_scale: float | Mapping[str, float] | None
    """Multiple of the rate for pretrained layers, such as 0.1, or by module: layer3=0.1,pretrained=0.01."""
    augment: str | Augment | None
    """flip, crop or flip,crop; for modes that see images."""
    batch_norm: str
    """Statistics of trained batch norms: frozen, train, or auto (train in scratch)."""
    head_epochs: int | None
    """Epochs on the cache before everything is trained, in mode staged."""
    views: int | None
    """Keep so many augmented views of every image, for features in the cache; augment says how they are drawn."""
    tensorboard: str | Path | None
    """Write curves, histograms and the graph to this folder; needs headstart[tensorboard]."""
    debug_nans: bool
    """Stop at the first value that is not finite, and name node, epoch and batch."""
    profile: str | Path | None
    """Write the framework's own trace of each stage's second epoch to this folder."""


class _FitSweepPlan(TypedDict, total=False):
    """Taken by fit, sweep, plan."""

    max_epochs: int | None
    """Epochs of training, at most; patience may end it before."""


class _FitSweep(TypedDict, total=False):
    """Taken by fit, sweep."""

    patience: int | None
    """Stop after so many epochs without a better one, by monitor."""
    folds: int | None
    """Hold out each of so many folds in turn; the model is then trained on all of the data."""
    engine: Ray | None
    """Who extracts features that the cache lacks: hs.Ray(...), the actors of a cluster."""
    extraction_batch: int | str | None
    """Images at once while features are extracted; auto: as many as the device's memory has room for."""
    push: str | None
    """Write each finished shard of features on to the store behind this URL, such as s3://bucket/team."""


class _FitSweepPlanCompareModes(TypedDict, total=False):
    """Taken by fit, sweep, plan, compare_modes."""

    backend: str | None
    """torch, keras or jax."""


class _FitCompareModes(TypedDict, total=False):
    """Taken by fit, compare_modes."""

    on_epoch: OnEpoch | None
    """Called with the stage ("head" or "all") and the record after each epoch."""


class FitOptions(
    _Fit,
    _FitCompareCompareModesSweep,
    _FitSweepPlanCompareCompareModes,
    _FitCompareCompareModes,
    _FitSweepPlan,
    _FitSweep,
    _FitSweepPlanCompareModes,
    _FitCompareModes,
    total=False,
):
    """Keyword arguments of `fit`."""


class SweepOptions(
    _FitCompareCompareModesSweep,
    _FitSweepPlanCompareCompareModes,
    _FitSweepPlan,
    _FitSweep,
    _FitSweepPlanCompareModes,
    total=False,
):
    """Keyword arguments of `sweep`."""


class PlanOptions(
    _FitSweepPlanCompareCompareModes,
    _FitSweepPlan,
    _FitSweepPlanCompareModes,
    total=False,
):
    """Keyword arguments of `plan`."""


class CompareOptions(
    _FitCompareCompareModesSweep,
    _FitSweepPlanCompareCompareModes,
    _FitCompareCompareModes,
    total=False,
):
    """Keyword arguments of `compare`."""


class CompareModesOptions(
    _FitCompareCompareModesSweep,
    _FitSweepPlanCompareCompareModes,
    _FitCompareCompareModes,
    _FitSweepPlanCompareModes,
    _FitCompareModes,
    total=False,
):
    """Keyword arguments of `compare_modes`."""
