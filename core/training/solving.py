"""A head that is solved instead of stepped: one linear layer on cached features, its penalty chosen by samples of
the training part that are held out in turn.

The validation data choose nothing, so their scores say what new samples would. What is returned is what a training
gives: the layer for the features as they are, a history of one record, scores of the validation data by the
backend.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DataError, SettingError
from headstart.common.log import LOG
from headstart.common.machine import available_memory
from headstart.common.sizes import binary_size
from headstart.contract.losses import Loss, Softmax, mean, per_sample, right
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.features.exports import FeatureRows
from headstart.features.feature_set import FeatureSet
from headstart.graph import Graph, Node
from headstart.graph.ops import INERT
from headstart.training.class_columns import class_columns
from headstart.training.feature_feeds import Resident, Streamed
from headstart.training.feeds import Feeds
from headstart.training.history import History, Seconds
from headstart.training.job import TrainingJob
from headstart.training.loop import Trained, record_of, result_of
from headstart.training.measured import Measured, measure
from headstart.training.observers import Observers
from headstart.training.rates import kept_by_owner
from headstart.training.solvers.linear import LinearPath
from headstart.training.solvers.logistic import BAR, LogisticPath, logistic
from headstart.training.solvers.ridge import ridge, working_nbytes
from headstart.training.solvers.rows import BLOCK
from headstart.training.stage import EpochEnd, Stage

FOLDS = 5
PIECES = 4
"""so many of what is read from the disk at once are a block at most"""

MAX_KEPT_NBYTES = 1 << 30
"""of held-out outputs of all penalties; of more only those of the best are kept, for which it is solved again"""

AT_ONE_TIME = ("flatten", "global_avg_pool", *INERT)
"""ops that may stand between the features and the layer: they have no parameters"""


def check_solvable(job: TrainingJob) -> None:
    """SettingError where the head, the labels or an option are not for the solver that the settings name."""
    s = job.settings
    assert job.cut is not None
    task, name = job.objective.task, f"solver={s.solver!r}"
    if s.solver == "logistic" and task == REGRESSION:
        raise SettingError(f"{name} tells classes or labels apart, and the labels are numbers; use solver='ridge'")
    if s.solver == "ridge":
        for option in ("label_smoothing", "pos_weight"):
            if getattr(s, option):
                raise SettingError(
                    f"{option}={getattr(s, option)!r} with {name}, whose errors are squared; use "
                    "solver='logistic', or leave it out"
                )
    if s.huber is not None:
        raise SettingError(f"huber={s.huber!r} with {name}, whose errors are squared; train without solver=")
    if isinstance(job.train, FeatureSet) and job.train.views > 1:
        raise SettingError(
            f"{name} takes every sample once, and the features of {job.train.name!r} have {job.train.views} "
            "augmented views of each; extract them without views=, or train without solver="
        )
    graph = job.trained_graph
    layer = linear_layer(graph)
    if layer is None or not layer.attrs["bias"]:
        raise SettingError(
            f"{name} is for a head of one linear layer with a bias; what follows the cut {job.cut!r} of "
            f"{job.model.name} is more, or other, than that: cut behind it (cut={job.model.default_cut!r}, and "
            "head='linear'), or train it step by step, without solver="
        )
    if kept := kept_by_owner(graph, False):
        raise SettingError(f"{name} solves for the whole layer, of which {sorted(kept)[0]!r} is frozen")


def linear_layer(graph: Graph) -> Node | None:
    """The only node with parameters of a head, linear, its output the head's, behind pooling at most; None where
    the head is anything else."""
    node = graph[graph.output]
    while node.op in INERT:
        node = graph[node.inputs[0]]
    if node.op != "linear" or graph.auxiliary:
        return None
    before = graph.upto(node.inputs[0]).nodes[1:]
    return node if all(other.op in AT_ONE_TIME for other in before) else None


def solved_stage(
    job: TrainingJob, stage: Stage, feeds: Feeds, observers: Observers, about: Mapping[str, Any]
) -> Trained:
    """Solve for the head of a job that `check_solvable` has let through; as `train_stage`, which steps.

    DataError for features that are not finite, SettingError where fewer than two samples can be held out, or where
    the features' covariances do not fit the memory.
    """
    layer = linear_layer(stage.graph)
    assert layer is not None and isinstance(feeds.train, Resident | Streamed)
    start = time.perf_counter()
    folds, held_out = _folds(job)
    order, rows = _rows(job, feeds.train, stage.graph, 0 if folds is None else int(folds.max()) + 1)
    read = time.perf_counter() - start
    weight, bias, solved = _solved(job, rows, order, folds, held_out)
    params = {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}
    # at a rate of 0: nothing is stepped, the backend only computes what the layer gives
    stage = replace(stage, params={**stage.params, **params}, rates=np.zeros((1, 1), np.float32))
    trainer = job.backend.trainer(stage.graph, stage.params, stage.recipe, job.place)
    observers.stage(stage, {**about, "solved": solved})
    observers.begin(0)
    fitted, _ = feeds.train.logits(trainer)
    measured, outputs = Measured(), None
    if feeds.val is not None and feeds.val_data is not None:
        outputs, _ = feeds.val.logits(trainer)
        measured = measure(job.objective, outputs, feeds.val.targets, feeds.val_data)
    record = record_of(
        job.objective,
        0,
        np.array([[mean(per_sample(job.objective.loss, fitted, feeds.train.targets), job.weights)]]),
        None
        if job.objective.task == REGRESSION
        else float(right(job.objective.loss, fitted, feeds.train.targets).mean()),
        measured,
        Seconds(read, 0.0, time.perf_counter() - start - read),
        stage.rates[0],
    )
    observers.epoch(EpochEnd(stage, record, stage.rates[0], trainer))
    result = result_of(trainer.params(), History([record]), job.objective, outputs, feeds.val_data)
    return replace(result, solved=solved)


def _solved(
    job: TrainingJob, rows: Any, order: NDArray[np.intp], folds: NDArray[np.intp] | None, held_out: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Weight `(k, d)` and bias `(k,)` of the best penalty, and how it was chosen, JSON-able. `rows`: of the
    samples in this order. `folds`, `held_out`: which are held out together, and in words."""
    targets = job.objective.targets(job.train)[order]
    weights = None if job.weights is None else job.weights[order].astype(np.float64)
    folds = None if folds is None else folds[order]
    scale = 1.0
    path: LinearPath
    if job.settings.solver == "logistic":
        path = _logistic(job, rows, targets, weights, folds)
        if path.losses is None or not np.isfinite(path.losses).any():
            raise DataError(
                f"solver='logistic' chooses its penalty by samples that are held out in {held_out}, and no class "
                "has samples in two of them, so nothing of it is learnt where it is held out; add samples, use "
                "solver='ridge', or train without solver="
            )
    else:
        aims = _aims(job, targets)
        path = ridge(rows, aims, weights=weights, folds=folds, keep=aims.size * 80 <= MAX_KEPT_NBYTES)
        best = path.best
        if job.objective.task != REGRESSION:
            outputs = path.held_out
            if outputs is None:
                again = ridge(rows, aims, path.penalties[best], weights=weights, folds=folds)
                assert again.held_out is not None
                outputs, best_of = again.held_out, 0
            else:
                best_of = best
            scale = _scale(job, outputs[best_of], targets, weights)
    best = path.best
    assert path.losses is not None
    solved = {
        "held_out": held_out,
        "loss": "squared error" if job.settings.solver == "ridge" else "cross-entropy",
        "penalties": path.penalties.tolist(),
        "losses": path.losses.tolist(),
        "penalty": float(path.penalties[best]),
        "scale": scale,
    }
    if isinstance(path, LogisticPath):
        solved |= {"gradient": float(path.gradients[best]), "passes": path.passes}
        if path.gradients[best] > BAR:
            LOG.warning(
                "logistic: the gradient is %.2g, above %g, after %d passes", path.gradients[best], BAR, path.passes
            )
    LOG.info(
        "%s: penalty %.3g of %d from %.3g to %.3g, by %s: %s %.4g", job.settings.solver, solved["penalty"],
        len(path.penalties), path.penalties.min(), path.penalties.max(), held_out, solved["loss"],
        path.losses[best],
    )  # fmt: skip
    weight, bias = scale * path.weight[best], scale * path.bias[best]
    return weight.astype(np.float32), bias.astype(np.float32), solved


def _aims(job: TrainingJob, targets: np.ndarray) -> NDArray[np.float64]:
    """What ridge regression aims at: 1 where a sample is of the class, -1 where it is not; numbers as they are."""
    if job.objective.task == REGRESSION:
        return targets.astype(np.float64)
    if job.objective.task == MULTI:
        return np.where(targets > 0, 1.0, -1.0)
    return class_columns(targets, len(job.train.classes), absent=-1.0)


def _logistic(
    job: TrainingJob, rows: Any, targets: np.ndarray, weights: np.ndarray | None, folds: np.ndarray | None
) -> LogisticPath:
    s, classes = job.settings, len(job.train.classes)
    if job.objective.task == MULTI:
        counts = getattr(job.objective.loss, "pos_weight", None)
        of_label = None if counts is None else np.array(counts)
        return logistic(rows, targets, labels=True, pos_weight=of_label, weights=weights, folds=folds, keep=False)
    others = s.label_smoothing / classes
    shares = class_columns(targets, classes, there=1 - s.label_smoothing + others, absent=others, dtype=np.float32)
    return logistic(rows, shares, weights=weights, folds=folds, keep=False)


def _folds(job: TrainingJob) -> tuple[NDArray[np.intp] | None, str]:
    """Which samples are held out together, and in words; None: each by itself. Samples of one group, and copies of
    one sample, are never apart, since what is held out would else be known."""
    ids, annotations = job.train.ids, job.train.annotations
    keys = set(ids) if annotations.groups is None else set(annotations.groups)
    if job.settings.solver == "ridge" and len(keys) == len(ids):
        return None, "leave-one-out"
    count = min(FOLDS, len(keys))
    if count < 2:
        raise SettingError(
            f"solver={job.settings.solver!r} holds out samples to choose its penalty, and all {len(ids)} of them "
            "are one " + ("picture" if annotations.groups is None else "group")
        )
    folds = job.train.without_folds().fold_numbers(count, job.settings.seed).astype(np.intp)
    return folds, f"{count} folds" + ("" if annotations.groups is None else " of groups")


def _scale(job: TrainingJob, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
    """The factor that makes a ridge regression's outputs logits: the one of the least cross-entropy of what was
    held out, `outputs` `(n, k)`. It moves no decision.

    Where all of that is right no factor is the best, as a larger one always has less, and every probability would
    be 1. So one of n + 2 samples is taken to be wrong beside them, as Platt (1999) has it, by Laplace's rule."""
    from scipy.optimize import minimize_scalar  # a tenth of a second, for those who need it

    known = np.isfinite(outputs).all(1)
    counts = None if weights is None else weights[known]
    outputs, targets = outputs[known], targets[known]
    # of weights as many equal ones as tell as much
    samples = len(outputs) if counts is None else counts.sum() ** 2 / max((counts**2).sum(), 1e-300)
    wrong, classes = 1 / (samples + 2), outputs.shape[1]
    if job.objective.task == SINGLE:
        plain: Loss = Softmax(wrong * classes / (classes - 1))
    else:
        plain, targets = job.objective.plain, np.where(targets > 0, 1 - wrong, wrong)

    def loss(log: float) -> float:
        return mean(per_sample(plain, np.exp(log) * outputs, targets), counts)

    return float(np.exp(minimize_scalar(loss, bounds=(-5.0, 7.0), method="bounded").x))


def _rows(job: TrainingJob, feed: Resident | Streamed, graph: Graph, folds: int) -> tuple[NDArray[np.intp], Any]:
    """The features as solvers take them, and in which order the samples are: in memory where the feed has them
    there, else from the disk in the order in which they lie there. `folds`: how many are held out; 0: each sample
    by itself."""
    features = FeatureRows(feed.features, feed.cut, 0)
    blocks, layer = _Blocks(features, graph), linear_layer(graph)
    assert layer is not None
    n, d = len(features), layer.attrs["in_features"]
    needed = working_nbytes(n, d, folds) if job.settings.solver == "ridge" else 0
    if needed > available_memory():
        raise SettingError(
            f"solver='ridge' keeps the products of {d:,} features with each other, {binary_size(needed)}, and "
            f"{binary_size(available_memory())} are free; use solver='logistic', or a cut with fewer features"
        )
    in_memory = isinstance(feed, Resident) or feed.in_memory
    if not in_memory:
        return blocks.order, blocks
    if 8 * n * d > available_memory() // 2:
        return blocks.order, list(blocks)  # no copy of them is made
    return blocks.order, np.concatenate(list(blocks))


class _Blocks:
    """Rows of features `(b, d)`, read anew in every pass, as the linear layer gets them."""

    def __init__(self, rows: FeatureRows, graph: Graph) -> None:
        self._rows, self._pools = rows, any(node.op == "global_avg_pool" for node in graph.nodes)
        self.order: NDArray[np.intp] = np.asarray(rows.folder.disk_order(rows.ids), np.intp)
        self._size = min(BLOCK, rows.piece * PIECES)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.order), self._size):
            block, _ = self._rows.read(self.order[start : start + self._size])
            if block.ndim == 4:
                if self._pools:
                    block = block.astype(np.float32).mean((1, 2))
                else:  # flattened as published weights have it
                    block = block.transpose(0, 3, 1, 2)
            yield block.reshape(len(block), -1)
