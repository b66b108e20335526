"""`debug_nans`: training step by step, with a look at the losses and parameters after each, and a search for the
node where the first NaN or infinity came up.

Invariant: what is trained is the same as without. The same samples come in the same order, each step is a call of
the trainer's `step`, and masks of dropout are drawn from the same streams.

The search runs the batch once more with the parameters of before the step, through the backend's own layers in
inference mode, every node's output in view. Batch norms that follow the batch are given the statistics that they
had in the step.

What no later value depends on is not seen: of a NaN before a rectifier, oneDNN's makes 0. So parameters are looked
at before they are used, those of a frozen trunk as it runs them, with batch norms folded in, and inputs for NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headstart.common.errors import NonFiniteError
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer, Trunk
from headstart.data import Dataset
from headstart.data.loader import Batch
from headstart.data.rows import count, each, pad, window
from headstart.features.extract import INPUT, Extractor
from headstart.features.feature_set import FeatureSet
from headstart.features.inference import fed, frozen, unsound, unsound_node
from headstart.graph import Graph, Node
from headstart.models import Model
from headstart.training.feeds import EpochResult, Feed
from headstart.training.history import Seconds

ROWS = 8  # of a batch that are searched at once: every node's output of them is kept
NAMED = 3  # samples in a message; the error has all of them

Params = Mapping[str, np.ndarray]


def is_finite(array: Any) -> bool:
    return bool(_finite(np.asarray(array)).all())


def _finite(array: np.ndarray) -> np.ndarray:
    """Where; everywhere in what is no number with a fraction."""
    whole = array.dtype.kind in "biuSU"
    found: np.ndarray = np.ones(array.shape, bool) if whole else np.isfinite(array)
    return found


def holds_nan(rows: Any) -> bool:
    """Whether a batch does, as core has batches. Infinity may be meant: masks are made of it."""
    arrays = rows.values() if isinstance(rows, dict) else [rows]
    return any(isinstance(a, np.ndarray) and a.dtype.kind == "f" and bool(np.isnan(a).any()) for a in arrays)


def _bad_rows(rows: Any) -> np.ndarray:
    """bool `(n,)`: which samples of a batch hold NaN or infinity."""
    arrays = list(rows.values()) if isinstance(rows, dict) else [rows]
    found = [~_finite(array).reshape(len(array), -1).all(1) for array in arrays]
    bad: np.ndarray = np.any(found, axis=0)
    return bad


@dataclass(frozen=True)
class Found:
    """Where the first NaN or infinity is."""

    what: str
    """as `NonFiniteError` has it"""
    node: Node
    rows: np.ndarray
    """of the batch, those concerned; none where it is no matter of samples"""


@dataclass(frozen=True)
class Searched:
    """A graph with its parameters, and what runs it."""

    backend: Backend
    place: Place
    graph: Graph
    params: Params

    def find(self, inputs: Any) -> Found | None:
        """The first node, in the graph's order, whose output for this batch is not finite; None where all are."""
        bad = _bad_rows(inputs)
        if bad.any():
            return Found("input", self.graph.nodes[0], np.flatnonzero(bad))
        nodes = self.graph.nodes[1:]
        trunk = self.backend.trunk(self.graph, self.params, [node.name for node in nodes], self.place)
        total = count(inputs)
        size = min(ROWS, total)
        first, rows = len(nodes), np.zeros(0, np.int64)
        for start in range(0, total, size):
            part = window(inputs, start, start + size)
            outputs = trunk.run(pad(part, size))
            for i, node in enumerate(nodes[: first + 1]):
                bad = _bad_rows(self.backend.numpy(outputs[node.name])[: count(part)])
                if bad.any():
                    here = start + np.flatnonzero(bad)
                    rows = np.concatenate([rows, here]) if i == first else here
                    first = i
                    break
        return Found("output", nodes[first], rows) if len(rows) else None


def with_batch_statistics(graph: Graph, before: Params, after: Params) -> dict[str, np.ndarray]:
    """The parameters of before a step in which batch norms followed the batch, with that batch's statistics in
    place of the kept ones: how the kept ones changed says what they are."""
    params = dict(before)
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        new = node.attrs["momentum"]
        for key, least in (("running_mean", -np.inf), ("running_var", 0.0)):
            name = f"{node.name}.{key}"
            with np.errstate(over="ignore", invalid="ignore"):
                change = after[name].astype(np.float64) - (1 - new) * before[name].astype(np.float64)
                params[name] = np.maximum(change / new, least).astype(np.float32)
    return params


def in_trunk(model: Model, cut: str, backend: Backend, place: Place, images: Any) -> Found | None:
    """The first node of the frozen trunk that is not finite for these inputs: one of the model's own nodes or,
    where all of them are, one of those that are run, in which batch norms are part of convolutions."""
    graph = model.graph.upto(cut)
    own = Searched(backend, place, fed(graph, model), {name: model.params[name] for name in graph.param_shapes()})
    found = own.find(images)
    if found is None:
        graph, params = frozen(graph, model.params, [cut])
        found = Searched(backend, place, fed(graph, model), params).find(images)
    return found


def check_weights(model: Model, cut: str | None, stage: str) -> None:
    """NonFiniteError unless all parameters are finite, and with a `cut` those of the trunk that is run."""
    folded = None
    if cut is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            folded = frozen(model.graph.upto(cut), model.params, [cut])
    if (found := unsound_node((model.graph, model.params), folded)) is not None:
        node, said = found
        raise NonFiniteError(
            f"before training: {said}. Begin with other weights than {model.weights or 'these'}",
            what="weights",
            stage=stage,
            node=node.name,
            epoch=None,
            batch=None,
        )


class SeenTrunk:
    """A trunk that knows which batch it ran last."""

    def __init__(self, trunk: Trunk, model: Model, cut: str) -> None:
        self.trunk, self.model, self.cut = trunk, model, cut
        self.images: Any = None

    def run(self, images: Any) -> dict[str, Any]:
        self.images = images
        return self.trunk.run(images)

    def params(self) -> dict[str, np.ndarray]:
        return self.trunk.params()


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
        train: Dataset | FeatureSet,
        trunk: SeenTrunk | None,
    ) -> None:
        self.trainer, self.graph, self.recipe = trainer, graph, recipe
        self.backend, self.place, self.stage = backend, place, stage
        self.data, self.trunk = train, trunk
        self.before = dict(params)
        """the parameters before the step in hand"""
        self.epoch_number, self.batch = 0, 0
        self.order = np.zeros((0, 0), np.int64)
        self.bad: dict[bytes, tuple[Any, Any]] = {}
        """logits that are not finite -> a row of inputs that gave them, and the trunk's"""

    def begin(self, epoch: int, order: np.ndarray) -> None:
        """Epoch `epoch`, from 0, comes next, in this order."""
        self.epoch_number, self.order, self.batch = epoch + 1, order, 0

    def put(self, rows: np.ndarray) -> np.ndarray:
        """They stay in memory: batches of them are looked at."""
        return rows

    def epoch(
        self, rows: np.ndarray, labels: np.ndarray, order: np.ndarray | None, rates: np.ndarray
    ) -> tuple[np.ndarray, int]:
        size = len(labels) // len(rates) if order is None else order.shape[1]
        losses, correct = [], 0
        for i, rate in enumerate(rates.tolist()):
            chosen = np.arange(i * size, (i + 1) * size) if order is None else order[i]
            loss, right = self.step(_wide(rows[chosen]), labels[chosen], rate)
            losses.append(loss)
            correct += right
        return np.array(losses), correct

    def step(self, inputs: Any, labels: np.ndarray, rate: float) -> tuple[np.ndarray, int]:
        losses, right = self.trainer.step(inputs, labels, rate)
        after = self.trainer.params()
        given = inputs if self.trunk is None else self.trunk.images
        if holds_nan(given) or not is_finite(losses) or any(unsound(node, after) for node in self.graph.nodes):
            raise self._step_error(self._numpy(inputs), np.asarray(losses), after, rate)
        self.before = after
        self.batch += 1
        return losses, right

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        rows = _wide(window(self._numpy(inputs), start, stop))
        logits = self.trainer.logits(rows, 0, count(rows))
        for k in np.flatnonzero(_bad_rows(logits)).tolist():
            images = None if self.trunk is None else window(self.trunk.images, start + k, start + k + 1)
            self.bad.setdefault(logits[k].tobytes(), (window(rows, k, k + 1), images))
        return logits

    def params(self) -> dict[str, np.ndarray]:
        return self.trainer.params()

    def _numpy(self, rows: Any) -> Any:
        return each(lambda a: a if isinstance(a, np.ndarray) else np.array(self.backend.numpy(a)), rows)

    def _searched(self, params: Params) -> Searched:
        return Searched(self.backend, self.place, self.graph, params)

    def _step_error(self, inputs: Any, losses: np.ndarray, after: Params, rate: float) -> NonFiniteError:
        graph, before = self.graph, self.before
        used = with_batch_statistics(graph, before, after) if self.recipe.train_statistics else before
        found, in_frozen = self._searched(used).find(inputs), False
        if self.trunk is not None and holds_nan(self.trunk.images):
            found, in_frozen = self._trunks_own(self.trunk.images), True
        elif found is not None and found.what == "input" and self.trunk is not None:
            found, in_frozen = self._trunks_own(self.trunk.images) or found, True
        if found is None:
            found = self._behind_the_forward_pass(losses, after)
        return self._error(
            found,
            in_frozen,
            f"batch {self.batch + 1} of {len(self.order)}",
            self.batch + 1,
            self.data,
            self.order[self.batch],
            rate,
            losses,
        )

    def _behind_the_forward_pass(self, losses: np.ndarray, after: Params) -> Found:
        """Where it came up, if all outputs are finite."""
        none = np.zeros(0, np.int64)
        for name, loss in zip(self.graph.outputs, losses, strict=True):
            if not is_finite(loss):
                return Found("loss", self.graph[name], none)
        # Gradients come from the loss: the last node is where it began.
        last = next(node for node in reversed(self.graph.nodes) if unsound(node, after))
        return Found("update", last, none)

    def _trunks_own(self, images: Any) -> Found | None:
        assert self.trunk is not None
        return in_trunk(self.trunk.model, self.trunk.cut, self.backend, self.place, images)

    def validation_error(self, logits: np.ndarray, data: Dataset | FeatureSet) -> NonFiniteError:
        """For the logits of `data`, of which some are not finite."""
        rows = np.flatnonzero(_bad_rows(logits))
        inputs, images = self.bad[logits[rows[0]].tobytes()]
        self.before = self.trainer.params()
        found, in_frozen = self._searched(self.before).find(inputs), False
        if found is not None and found.what == "input" and images is not None:
            found, in_frozen = self._trunks_own(images) or found, True
        found = found or Found("output", self.graph[self.graph.output], rows)
        found = Found(found.what, found.node, np.arange(len(rows)))
        return self._error(found, in_frozen, "in validation", None, data, rows, None, None)

    def _error(
        self,
        found: Found,
        in_frozen: bool,
        when: str,
        batch: int | None,
        data: Dataset | FeatureSet,
        positions: np.ndarray,
        rate: float | None,
        losses: np.ndarray | None,
    ) -> NonFiniteError:
        return _described(
            found,
            f"stage {self.stage!r}, epoch {self.epoch_number}, {when}",
            names=[sample_name(data, int(positions[row])) for row in found.rows],
            total=len(self.order[self.batch]) if batch is not None else len(data),
            in_frozen=in_frozen,
            rate=rate,
            loss=None if losses is None else losses[_output(self.graph, found.node.name)],
            precision=self.place.precision,
            stage=self.stage,
            epoch=self.epoch_number,
            batch=batch,
        )


def _output(graph: Graph, name: str) -> int:
    return graph.outputs.index(name) if name in graph.outputs else 0


class WatchedFeed:
    """A feed that tells the trainer where it is, and looks at the logits of a whole validation."""

    def __init__(self, feed: Feed, trainer: WatchedTrainer, data: Dataset | FeatureSet) -> None:
        self.feed, self.trainer, self.data = feed, trainer, data
        self.labels = feed.labels

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
    trainer: WatchedTrainer, feeds: tuple[Feed, Feed | None], val: Dataset | FeatureSet | None
) -> tuple[Feed, Feed | None]:
    """The feeds of training and validation data, told to the trainer."""
    train = WatchedFeed(feeds[0], trainer, trainer.data)
    return train, None if feeds[1] is None or val is None else WatchedFeed(feeds[1], trainer, val)


class WatchedExtractor(Extractor):
    """Extraction that names the node of the trunk, and the image, where a feature is not finite as it was
    computed. One that only the stored type cannot hold is refused as ever."""

    def __call__(self, data: Dataset) -> FeatureSet:
        self._data = data
        return super().__call__(data)

    def _rows(self, batch: Batch, size: int, nodes: Collection[str]) -> dict[str, np.ndarray]:
        found = super()._rows(batch, size, nodes)
        for node, rows in found.items():
            if node != INPUT and (holds_nan(batch.images) or not is_finite(rows)):
                raise self._error(node, rows, batch)
        return found

    @cached_property
    def _backend(self) -> Backend:
        from headstart.contract import registry

        return registry.load(self.backend_name)

    def _error(self, node: str, rows: np.ndarray, batch: Batch) -> NonFiniteError:
        bad = np.flatnonzero(_bad_rows(rows))
        found = in_trunk(self.model, node, self._backend, self.place, batch.images)
        found = found or Found("output", self.model.graph[node], bad)
        return _described(
            found,
            "extraction",
            names=[self._data.source_name(int(batch.indices[row])) for row in found.rows],
            total=len(batch.ids),
            in_frozen=True,
            rate=None,
            loss=None,
            precision=self.precision,
            stage="extraction",
            epoch=None,
            batch=None,
        )


def sample_name(data: Dataset | FeatureSet, position: int) -> str:
    return data.source_name(position) if isinstance(data, Dataset) else f"sample {data.ids[position]}"


def _wide(rows: Any) -> Any:
    """Features in half precision as float32; what is no number with a fraction stays."""
    return each(lambda a: a if a.dtype.kind in "biuSU" else a.astype(np.float32), rows)


def _described(
    found: Found,
    when: str,
    *,
    names: Sequence[str],
    total: int,
    in_frozen: bool,
    rate: float | None,
    loss: Any,
    precision: str,
    stage: str,
    epoch: int | None,
    batch: int | None,
) -> NonFiniteError:
    """The error, with what happened and what may help."""
    node, few = found.node, 0 < len(names) < total
    whose = f"{node.name!r} ({node.op}{', in the frozen trunk' if in_frozen else ''})"
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    mend = []
    if found.what == "input":
        text = f"the inputs of {listed} hold NaN or infinity"
        mend.append("look at these samples")
    elif found.what == "output":
        text = f"the output of node {whose} holds NaN or infinity for {len(names)} of {total} samples: {listed}"
    elif found.what == "loss":
        text = f"the loss of {whose} is {loss}, though the outputs of all nodes are finite, as inference has them"
    else:
        text = (
            f"the update made parameters of node {whose} NaN or infinity, though the loss and the outputs of all "
            "nodes before it are finite: its gradient or the step was too large"
        )
    if found.what != "input":
        if rate is not None:
            mend.append(f"a learning rate below {rate:.3g}")
        if precision != "float32":
            mend.append(f"precision='float32' instead of {precision!r}")
        if few:
            mend.append("a look at these samples")
        elif rate is None:
            mend.append("other weights" if in_frozen else "a lower learning rate")
    return NonFiniteError(
        f"{when}: {text}. What may help: {', '.join(mend)}",
        what=found.what,
        stage=stage,
        node=node.name,
        epoch=epoch,
        batch=batch,
        samples=names,
    )
