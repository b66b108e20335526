"""Wrappers of a trainer, a trunk and the feeds that look at every value for NaN and infinity.

They have the methods of what they wrap, so the loop does not know of them. The first value that is not finite ends
the training with a NonFiniteError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from headstart.common.errors import NonFiniteError
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer, Trunk
from headstart.contract.streams import Dtypes, one_by_one
from headstart.data import Dataset
from headstart.data.loader import Batch
from headstart.data.rows import count, each, window
from headstart.features.feature_set import FeatureSet
from headstart.features.inference import unsound
from headstart.features.trunk_keys import INPUT
from headstart.graph import Graph
from headstart.models import Model
from headstart.training.feeds import EpochResult, Feed, Feeds
from headstart.training.history import Seconds
from headstart.training.image_feed import Images
from headstart.training.nans.search import (
    Finding,
    Params,
    Search,
    bad_rows,
    find_in_trunk,
    holds_nan,
    is_finite,
    unsound_parameters,
    with_batch_statistics,
)
from headstart.training.nans.words import Circumstances, error_of
from headstart.training.stage import Stage


def check_weights(model: Model, cut: str | None, stage: str) -> None:
    """NonFiniteError unless all parameters are finite; with a `cut`, also those of the folded trunk up to it."""
    if (unsound_parameter := unsound_parameters(model, cut)) is not None:
        node, what = unsound_parameter
        raise NonFiniteError(
            f"before training: {what}. Begin with other weights than {model.weights or 'these'}",
            what="weights",
            stage=stage,
            node=node.name,
            epoch=None,
            batch=None,
        )


class WatchedTrunk:
    """A frozen trunk that remembers the batch it ran last."""

    def __init__(self, trunk: Trunk, model: Model, cut: str, backend: Backend, place: Place) -> None:
        self.trunk, self.model, self.cut = trunk, model, cut
        self.backend, self.place = backend, place
        self.images: Any = None

    def run(self, images: Any) -> dict[str, Any]:
        self.images = images
        return self.trunk.run(images)

    def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        return one_by_one(self.run, self.backend.numpy, batches, dtypes, reuses=True)

    def params(self) -> dict[str, np.ndarray]:
        return self.trunk.params()

    def find(self, images: Any) -> Finding | None:
        """The trunk's first node that is not finite for these inputs."""
        return find_in_trunk(self.model, self.cut, self.backend, self.place, images)


class WatchedTrainer:
    """A trainer that stops with a NonFiniteError at the first step after which a loss or a parameter is not
    finite."""

    def __init__(
        self,
        trainer: Trainer,
        graph: Graph,
        params: Params,
        recipe: Recipe,
        backend: Backend,
        place: Place,
        stage: str,
        data: Dataset | FeatureSet,
        trunk: WatchedTrunk | None,
    ) -> None:
        """`trunk`: what runs before the trainer in every step, if anything does."""
        self.trainer, self.graph, self.recipe = trainer, graph, recipe
        self.backend, self.place, self.stage = backend, place, stage
        self.data, self.trunk = data, trunk
        self.before = dict(params)
        """the parameters before the step in hand"""
        self.epoch_number, self.batch = 0, 0
        self.positions = np.zeros((0, 0), np.int64)
        """`(steps, batch)`: where the samples of each step of the epoch stand in the data set"""
        self.bad_logits: dict[bytes, tuple[Any, Any]] = {}
        """logits that are not finite -> a row of inputs that gave them, and the trunk's"""

    def begin(self, epoch: int, order: np.ndarray) -> None:
        """Epoch `epoch`, from 0, comes next, in this order."""
        self.epoch_number, self.positions, self.batch = epoch + 1, order, 0

    def put(self, rows: np.ndarray) -> np.ndarray:
        """The rows stay in memory, where each batch of them can be looked at."""
        return rows

    def epoch(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        size = len(targets) // len(rates) if order is None else order.shape[1]
        losses, correct = [], 0
        for i, rate in enumerate(rates.tolist()):
            places = np.arange(i * size, (i + 1) * size) if order is None else order[i]
            counting = None if weights is None else weights[places]
            loss, right = self.step(_float32(rows[places]), targets[places], rate, counting)
            losses.append(loss)
            correct += right
        return np.array(losses), correct

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        losses, right = self.trainer.step(inputs, targets, rate, weights)
        after = self.trainer.params()
        came_in = inputs if self.trunk is None else self.trunk.images
        if holds_nan(came_in) or not is_finite(losses) or any(unsound(node, after) for node in self.graph.nodes):
            raise self._step_error(self._numpy(inputs), np.asarray(losses), after, rate)
        self.before = after
        self.batch += 1
        return losses, right

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        rows = _float32(window(self._numpy(inputs), start, stop))
        logits = self.trainer.logits(rows, 0, count(rows))
        for k in bad_rows(logits).tolist():
            images = None if self.trunk is None else window(self.trunk.images, start + k, start + k + 1)
            self.bad_logits.setdefault(logits[k].tobytes(), (window(rows, k, k + 1), images))
        return logits

    def params(self) -> dict[str, np.ndarray]:
        return self.trainer.params()

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        return self.trainer.snapshot()

    def state(self) -> dict[str, np.ndarray]:
        return self.trainer.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.trainer.load_state(state)
        self.before = self.trainer.params()

    def _numpy(self, rows: Any) -> Any:
        return each(lambda a: a if isinstance(a, np.ndarray) else np.array(self.backend.numpy(a)), rows)

    def _find(self, params: Params, inputs: Any) -> Finding | None:
        return Search(self.backend, self.place, self.graph, params).find(inputs)

    def _step_error(self, inputs: Any, losses: np.ndarray, after: Params, rate: float) -> NonFiniteError:
        before = self.before
        used = with_batch_statistics(self.graph, before, after) if self.recipe.train_statistics else before
        finding, in_trunk = self._find(used, inputs), False
        if self.trunk is not None and holds_nan(self.trunk.images):
            finding, in_trunk = self.trunk.find(self.trunk.images), True
        elif finding is not None and finding.what == "input" and self.trunk is not None:
            finding, in_trunk = self.trunk.find(self.trunk.images) or finding, True
        if finding is None:
            finding = self._behind_the_forward_pass(losses, after)
        positions, name = self.positions[self.batch], finding.node.name
        seen = Circumstances(
            self.stage,
            f"stage {self.stage!r}, epoch {self.epoch_number}, batch {self.batch + 1} of {len(self.positions)}",
            self.place.precision,
            self.epoch_number,
            self.batch + 1,
            rate,
            losses[self.graph.outputs.index(name) if name in self.graph.outputs else 0],
            in_trunk,
        )
        names = [sample_name(self.data, int(positions[row])) for row in finding.rows]
        return error_of(finding, seen, names, len(positions))

    def _behind_the_forward_pass(self, losses: np.ndarray, after: Params) -> Finding:
        """Where it came up, if the outputs of all nodes are finite: in a loss, or in the update."""
        no_samples = np.zeros(0, np.int64)
        for name, loss in zip(self.graph.outputs, losses, strict=True):
            if not is_finite(loss):
                return Finding("loss", self.graph[name], no_samples)
        # Gradients come from the loss: the last node is where it began.
        last = next(node for node in reversed(self.graph.nodes) if unsound(node, after))
        return Finding("update", last, no_samples)

    def validation_error(self, logits: np.ndarray, data: Dataset | FeatureSet) -> NonFiniteError:
        """For the logits of `data`, of which some are not finite."""
        positions = bad_rows(logits)
        inputs, images = self.bad_logits[logits[positions[0]].tobytes()]
        finding, in_trunk = self._find(self.trainer.params(), inputs), False
        if finding is not None and finding.what == "input" and self.trunk is not None and images is not None:
            finding, in_trunk = self.trunk.find(images) or finding, True
        finding = finding or Finding("output", self.graph[self.graph.output], positions)
        when = f"stage {self.stage!r}, epoch {self.epoch_number}, in validation"
        seen = Circumstances(self.stage, when, self.place.precision, self.epoch_number, in_frozen_trunk=in_trunk)
        return error_of(finding, seen, [sample_name(data, int(row)) for row in positions], len(data))


class WatchedFeed:
    """A feed that tells the trainer where it is, and looks at the logits of a whole validation."""

    def __init__(self, feed: Feed, trainer: WatchedTrainer, data: Dataset | FeatureSet) -> None:
        self.feed, self.trainer, self.data = feed, trainer, data
        self.targets = feed.targets

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return self.feed.order(batch_size, seed, epoch)

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        self.trainer.begin(epoch, order)
        return self.feed.train(trainer, order, rates, epoch)

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        logits, seconds = self.feed.logits(trainer)
        if not is_finite(logits):
            raise self.trainer.validation_error(logits, self.data)
        return logits, seconds


def watched(
    trainer: Trainer, stage: Stage, feeds: Feeds, backend: Backend, place: Place
) -> tuple[WatchedTrainer, Feeds]:
    """A stage's trainer and feeds, watched."""
    trunk = feeds.train.trunk if isinstance(feeds.train, Images) else None
    trainer = WatchedTrainer(
        trainer,
        stage.graph,
        stage.params,
        stage.recipe,
        backend,
        place,
        stage.name,
        feeds.train_data,
        trunk if isinstance(trunk, WatchedTrunk) else None,
    )
    train, val = WatchedFeed(feeds.train, trainer, feeds.train_data), None
    if feeds.val is not None and feeds.val_data is not None:
        val = WatchedFeed(feeds.val, trainer, feeds.val_data)
    return trainer, replace(feeds, train=train, val=val)


class FeatureCheck:
    """Looks at the features of each batch as they are computed; see `Extractor`'s `observe`. Raises a
    NonFiniteError that names the node of the trunk, and the image, where one is not finite. One that only the
    stored type cannot hold is refused as ever, later."""

    def __init__(self, model: Model, backend: Backend, place: Place) -> None:
        self.model, self.backend, self.place = model, backend, place

    def __call__(self, data: Dataset, batch: Batch, features: Mapping[str, np.ndarray]) -> None:
        for node, rows in features.items():
            if node != INPUT and (holds_nan(batch.images) or not is_finite(rows)):
                raise self._error(data, batch, node, rows)

    def _error(self, data: Dataset, batch: Batch, node: str, rows: np.ndarray) -> NonFiniteError:
        finding = find_in_trunk(self.model, node, self.backend, self.place, batch.images)
        finding = finding or Finding("output", self.model.graph[node], bad_rows(rows))
        names = [data.source_name(int(batch.indices[row])) for row in finding.rows]
        seen = Circumstances("extraction", "extraction", self.place.precision, in_frozen_trunk=True)
        return error_of(finding, seen, names, len(batch.ids))


def sample_name(data: Dataset | FeatureSet, position: int) -> str:
    return data.source_name(position) if isinstance(data, Dataset) else f"sample {data.ids[position]}"


def _float32(rows: Any) -> Any:
    """Features in half precision as float32; integers, bools and texts stay as they are."""
    return each(lambda a: a if a.dtype.kind in "biuSU" else a.astype(np.float32), rows)
