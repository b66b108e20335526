"""Successive halving: heads that have had the same number of epochs are compared, and the better half of them goes
on. Jamieson and Talwalkar 2016, arXiv:1502.07943, with eta = 2.

Invariant: it says who goes on, and nothing of how they are trained: until it is pruned, a head is what it is
without halving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from headstart.common.log import LOG
from headstart.training.stopping import Best

ETA = 2


def rungs_of(epochs: int, count: int) -> tuple[int, ...]:
    """After which epochs, of so many at most, `count` heads are compared: so often that one is left, the last time
    after half of the epochs, each time before after half as many. Where that comes to no epoch, fewer times."""
    times = math.ceil(math.log2(count)) if count > 1 else 0
    return tuple(sorted({epochs // ETA**k for k in range(1, times + 1)} - {0}))


class Race:
    """The heads of a group that have not lost yet, by their numbers."""

    def __init__(self, heads: Mapping[int, Best], epochs: int, halving: bool) -> None:
        """`epochs`: how many a head is trained for at most. Without `halving` none of them loses."""
        self.heads, self.epochs = dict(heads), epochs
        self.rungs = rungs_of(epochs, len(heads)) if halving else ()
        """the epochs after which they are compared"""

    def losers(self, epoch: int) -> list[int]:
        """Those that do not go on after this epoch, counted from 1: at a rung the worse half, by the best figure
        of the monitor that each has had; of equals those of a higher validation loss in that epoch, of these those
        of higher numbers. Heads that have stopped by themselves are compared as well, with what they came to."""
        if epoch not in self.rungs:
            return []
        ranked = sorted(self.heads, key=self._rank)
        losers = ranked[math.ceil(len(ranked) / ETA) :]
        for number in losers:
            del self.heads[number]
        if losers:
            LOG.info(
                "after epoch %d of at most %d the better %d of %d heads go on",
                epoch, self.epochs, len(self.heads), len(ranked),
            )  # fmt: skip
        return losers

    def _rank(self, number: int) -> tuple[bool, float, float, int]:
        """The smaller, the better. As numbers that are not finite sort nowhere, they never are a best figure."""
        best = self.heads[number]
        if best.record is None or best.monitor is None:
            return True, 0.0, 0.0, number
        figure, loss = float(getattr(best.record, best.monitor.figure)), best.record.val_loss
        loss = loss if loss is not None and math.isfinite(loss) else math.inf
        return False, figure if best.monitor.smaller_is_better else -figure, loss, number
