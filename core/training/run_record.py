"""What a run recorded: the trained model, and all that is known of how it came to be.

It is what a comparison reads and what is written into a folder. `headstart.training.run` adds the ways to use the
trained model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from headstart.common.text import folds_line
from headstart.data import Dataset
from headstart.data.copies import groups_cut
from headstart.data.id_set import IdSet
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.inference import unsound_node
from headstart.graph import Graph
from headstart.models import Model
from headstart.report import pictures
from headstart.report.scores import SMALLER_IS_BETTER
from headstart.training.history import History
from headstart.training.scores import Scores
from headstart.training.scores.fold_scores import FoldScores
from headstart.training.scores.outcome import Outcome
from headstart.training.scores.result import headline
from headstart.training.validation import Validation


@dataclass(frozen=True)
class RunRecord:
    """A trained model and how it was trained."""

    model: Model
    """with the trained weights"""
    mode: str
    cut: str | None
    """None where everything was trained"""
    backend: str
    history: History
    head_history: History = field(default_factory=History)
    """of `staged`: the first stage, in which the head was trained on the cache"""
    extraction: ExtractionStats | None = None
    seconds: float = 0.0
    """wall time of the whole call; of one that went on from a checkpoint, with what led to that"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """enough to repeat it: optimiser, schedule, seed, batch size, device, dtypes, versions"""
    data: Mapping[str, Any] = field(default_factory=dict)
    """name, numbers of samples, classes"""
    trained: int | None = None
    """the number of parameters that were trained"""
    validation: Validation | None = None
    """what was right and wrong after the epoch that was kept; None where there were no validation data"""
    outcome: Outcome | None = field(default=None, repr=False)
    """what `scores` are computed from, or were"""
    train_ids: IdSet | None = field(default=None, repr=False)
    """which samples it was trained on; None in runs of before"""
    folds: FoldScores | None = None
    """of cross-validation. The model was trained on all of the data then; `validation` and `scores` are of the
    folds' heads, each on the samples that it had not seen, and `history` has no validation"""
    before: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """the weights of the network's first two convolutions, `(out, in, h, w)`, as training began; not saved"""
    val: Dataset | FeatureSet | None = field(default=None, repr=False)
    """what it was validated on, for pictures in its report; not saved"""

    def __repr__(self) -> str:
        best = self.history.best if len(self.history) else None
        name = headline(self.model.task, len(self.model.classes)) if best is None else best.score
        shown = "g" if name in SMALLER_IS_BETTER else "f"
        score = ", not validated" if best is not None and best.val_loss is None else ""
        score = score if best is None or best.val_score is None else f", val_{name} {best.val_score:.4{shown}}"
        if self.folds is not None:
            score = f", {folds_line(self.folds)}"
        cut = "" if self.cut is None else f", cut {self.cut!r}"
        epochs = len(self.head_history) + len(self.history)
        return (
            f"{type(self).__name__}({self.model.name!r}, mode {self.mode!r}{cut}, backend {self.backend!r}: "
            f"{epochs} epochs{score}, {self.seconds:.1f} s)"
        )

    @property
    def best_epoch(self) -> int:
        """The number of the epoch, from 1, whose head the model has: the best by the `monitor` of the settings, or
        the last. In `staged` of the second stage; `head_history.best_epoch` is that of the first."""
        return self.history.best_epoch

    @property
    def scores(self) -> Scores | None:
        """Of the validation data after the epoch that was kept, with a row a class and an interval; of a run with
        `folds`, of what each fold's head said of that fold, and not of the model here. Computed at the first call.
        None where there were no validation data, or the run was saved by a version without scores."""
        return None if self.outcome is None else self.outcome.scores

    @cached_property
    def diverged(self) -> bool:
        """Whether its last loss or its parameters are not finite: it names no class then, and its accuracy says
        nothing."""
        last = self.history[-1:]
        losses = [loss for record in last for loss in (record.loss, record.val_loss) if loss is not None]
        return not np.isfinite(losses).all() or unsound_node((self.model.graph, self.model.params)) is not None

    @cached_property
    def kernels(self) -> dict[str, Any] | None:
        """JSON-able: the first convolution's kernels before, after, and their difference, as pictures (data URIs);
        None where there is none, or where the run was loaded from a file."""
        for name, before in self.before.items():
            return pictures.kernels(name.removesuffix(".weight"), before, self.model.params[name])
        return None


def data_facts(train: Dataset | FeatureSet, val: Dataset | FeatureSet | None) -> dict[str, Any]:
    """JSON-able: what was trained on; `val_in_train` where samples of `val` are exact copies of some of it, and
    `val_of_train_groups` where others are of its groups."""
    of_groups = 0 if val is None else len(groups_cut(val, train))
    copies = 0 if val is None else sum(map(set(train.ids).__contains__, val.ids))
    return {
        "name": train.name,
        "train": len(train),
        "val": 0 if val is None else len(val),
        **({"val_in_train": copies} if copies else {}),
        **({"val_of_train_groups": of_groups} if of_groups else {}),
        "task": train.task,
        "classes": list(train.classes),
        "named_classes": train.named_classes,
        "split": [part.as_dict() for part in train.splits],
        "skipped": [list(line) for line in train.skipped] if isinstance(train, Dataset) else [],
    }


def first_convolutions(graph: Graph, count: int = 2) -> list[str]:
    """The names of the weights of the first convolutions."""
    return [f"{node.name}.weight" for node in graph.nodes if node.op == "conv"][:count]
