"""What a stage trains with where the user does not say: the optimiser, how long, and with which warm-up.

A head on features takes milliseconds an epoch, so it gets the steps that it needs, and the best epoch is kept; how
many epochs these are depends on how many samples there are. A warm-up keeps the first steps from being the best
ones by chance. What holds convolutions, and whole networks, have a few epochs. Without something to tell the best
epoch by, fewer steps are taken, as nothing would notice that it learns the samples by heart.

The rates of whole networks, and of heads with convolutions, were chosen by validation accuracy after five epochs
of AdamW, on 640 flowers and on the digits with resnet18_half: of 0.0001 to 0.003. Where several did equally well,
the middle one was taken.
"""

from __future__ import annotations

from headstart.contract.optimizers import AdamW, Optimizer
from headstart.graph import Graph, Node

HEAD_STEPS, HEAD_EPOCHS = 2000, (10, 100)
"""of a head on features: so many steps, in at least and at most so many epochs"""
UNMONITORED_STEPS, UNMONITORED_EPOCHS = 300, (5, 50)
"""the same, where nothing tells the best epoch"""
EPOCHS = 5
"""of everything else"""
WARMUP = 0.3
"""share of the steps of a head on features"""
PATIENCE, LEAST_PATIENCE = 5, 5
"""one in so many epochs, and so many at least, may pass without a better one"""


def is_shallow(graph: Graph) -> bool:
    """Whether it is linear layers and what costs no more: neither convolutions nor attention."""
    return all(_shallow(node) for node in graph.nodes)


def _shallow(node: Node) -> bool:
    if node.op == "native":
        return not node.attrs["part"].deep
    return node.op not in ("conv", "attention")


def default_optimizer(trained: Graph, whole: bool) -> Optimizer:
    """Of the graph `trained`. `whole`: it is all of the model, not a head on features."""
    if is_shallow(trained):
        return AdamW(lr=0.01 if whole else 0.003)
    return AdamW(lr=0.0003 if whole else 0.001)


def default_warmup(trained: Graph, whole: bool) -> float:
    """The share of the steps in which the learning rate rises."""
    return WARMUP if is_shallow(trained) and not whole else 0.0


def default_epochs(trained: Graph, whole: bool, steps: int, monitored: bool) -> int:
    """The number of epochs, of so many steps each, at most. `monitored`: the best of them is kept."""
    if whole or not is_shallow(trained):
        return EPOCHS
    total, bounds = (HEAD_STEPS, HEAD_EPOCHS) if monitored else (UNMONITORED_STEPS, UNMONITORED_EPOCHS)
    return epochs_for(total, steps, bounds)


def epochs_for(total: int, steps: int, bounds: tuple[int, int]) -> int:
    """How many epochs of `steps` steps each make at least `total` steps, within `bounds`: the fewest and the most
    epochs."""
    least, most = bounds
    return min(most, max(least, -(-total // steps)))


def default_patience(epochs: int) -> int:
    """The number of epochs without a better one after which a stage of at most `epochs` ends."""
    return max(LEAST_PATIENCE, -(-epochs // PATIENCE))
