"""Many heads side by side on the same rows: which heads can be, and what a backend is told of them.

A head of linear layers and activations is a few matrix products, too small to keep a processor busy. Heads that
see the same rows in the same order are one larger product, as their weights can be laid one beside the other.
Dropout between the layers does not part them: heads of one seed draw the same masks, each alone or all at once.
What keeps statistics or convolves is trained as `fit` does it, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from headstart.contract.losses import Loss
from headstart.contract.optimizers import Optimizer
from headstart.contract.running import Trainer
from headstart.graph import Graph, Node
from headstart.graph.ops import ACTIVATIONS, RANDOM

DROPOUT = "dropout"


@dataclass(frozen=True)
class Chain:
    """A head as `layers(before(x))`."""

    before: Graph | None
    """nodes without parameters, the same for all heads, such as a pooling; None where there are none"""
    layers: tuple[Node, ...]
    """linear layers, activations and dropout, one after the other, a linear layer or dropout first"""

    @property
    def dropouts(self) -> tuple[Node, ...]:
        """of the layers; each is in training one mask for all heads, the one that a head alone draws"""
        return tuple(node for node in self.layers if node.op == DROPOUT)


def chain_of(graph: Graph) -> Chain | None:
    """The head as a chain; None where it is none, and has to be trained by itself."""
    if graph.auxiliary:
        return None
    nodes = {node.name: node for node in graph.nodes}
    layers: list[Node] = []
    node = nodes[graph.output]
    while node.op in ("linear", DROPOUT) or node.op in ACTIVATIONS:
        layers.insert(0, node)
        node = nodes[node.inputs[0]]
    while layers and layers[0].op in ACTIVATIONS:
        node = layers.pop(0)
    before = graph.upto(node.name)
    nothing_learns = all(layer.op != "linear" for layer in layers)
    if nothing_learns or before.param_shapes() or any(other.op in RANDOM for other in before.nodes):
        return None
    return Chain(None if node.name == graph.input else before, tuple(layers))


@dataclass(frozen=True)
class HeadsRecipe:
    """How a backend updates `h` heads. The rates that come with each step are shares of `lr`."""

    optimizer: Optimizer
    """kind and settings that all heads share; its learning rate and weight decay do not count"""
    lr: np.ndarray
    """float32 `(h,)`"""
    weight_decay: np.ndarray
    """float32 `(h,)`"""
    loss: Loss
    seed: int = 0
    """of dropout, as of a `Recipe` of a head alone"""

    def of(self, numbers: Sequence[int]) -> HeadsRecipe:
        """That of the heads of these numbers, in this order."""
        places = list(numbers)
        return replace(self, lr=self.lr[places], weight_decay=self.weight_decay[places])


class Heads(Trainer, Protocol):
    """A trainer of `h` heads at once. As `Trainer`, but losses are `(steps, h)`, the numbers of samples classified
    right int64 `(h,)`, logits `(n, h, classes)`, and every parameter has a first axis of `h`. Core asks it for no
    state.

    The `weights` of an epoch are float32 `(n,)`, of all heads, or `(n, h)`, of each head its own. With a column of
    its own a head is what it is alone with that column as its samples' weights: its loss of a batch is the mean
    weighted by the column. A batch of which the column is all 0 is a step of that head all the same, with a loss
    and gradients of 0; what momentum and weight decay do in such a step, they do as of a head alone. But of what
    `(n, h)` weights leave out of a head's training, which are samples of weight 0, none counts as classified
    right."""

    compiles: bool
    """whether another number of heads is another program, which takes a moment to make: `keep` is then called only
    where it saves more"""

    def logits_of(self, inputs: Any, start: int, stop: int, numbers: Sequence[int]) -> np.ndarray:
        """As `logits`, float32 `(n, len(numbers), classes)`: of the heads of these numbers, from 0 to `h - 1`, in
        this order; one may be named twice. The others cost nothing."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with the heads of these numbers alone, from 0 to `h - 1`, one at least and none twice, in this
        order: each with its parameters, its rate and its weight decay, and what the optimiser keeps of it. They go
        on as they would have gone on beside the others, to rounding. From now on `h` is their number, in whatever
        comes back and in `weights`."""
