"""Steps of a training on rows that lie on a GPU, recorded once and played back (CUDA graphs): a step of a small
head is a dozen kernels of a few microseconds, and the host takes twenty times as long to launch them.

A recording holds several steps, of which rows, labels and learning rates are put where it reads them. It is tried
first, beside the same step computed as it comes; where that fails or differs, steps are computed as they come.

Invariant: parameters and the optimiser's state are after a recorded step what they are after the step itself,
within rounding; and a trial changes neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from headstart.backends.torch.epoch import Epoch, Step
from headstart.common.log import LOG

STEPS = 16
NBYTES = 256 << 20
"""Of rows that lie ready for one recording."""
NEAR = 1e-3
SIMILAR = 0.5
"""of a change: an optimiser that divides by a gradient's size makes something of one that is rounding alone"""
ROUNDING = 1e-5


def do(epoch: Epoch, step: Step, recorder: Recorder | None) -> None:
    """All steps of the epoch: played back as far as `recorder`, which is of `step`, can, the rest as they come."""
    epoch.do(step, 0 if recorder is None else recorder.play(epoch), len(epoch.targets))


class Recording:
    def __init__(self, step: Step, x: torch.Tensor, epoch: Epoch, count: int) -> None:
        """`x`: where the rows of its steps will lie."""
        size = epoch.targets.shape[1]
        self.count = count
        self.targets = torch.zeros_like(epoch.targets[:1]).repeat(count, *[1] * (epoch.targets.ndim - 1))
        self.weights = None if epoch.weights is None else epoch.weights.new_ones(count, *epoch.weights.shape[1:])
        self.rates = torch.zeros_like(epoch.device_rates[:1]).repeat(count)
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            results = [
                step(
                    x.narrow(0, k * size, size),
                    self.targets[k],
                    self.rates[k],
                    None if self.weights is None else self.weights[k],
                )
                for k in range(count)
            ]
            self.losses = torch.stack([losses for losses, _ in results])
            self.outcome = torch.stack([outcome for _, outcome in results])

    def play(self, epoch: Epoch, start: int) -> None:
        steps = slice(start, start + self.count)
        self.targets.copy_(epoch.targets[steps])
        if self.weights is not None and epoch.weights is not None:
            self.weights.copy_(epoch.weights[steps])
        self.rates.copy_(epoch.device_rates[steps])
        self.graph.replay()
        epoch.losses[steps] = self.losses
        epoch.outcome[steps] = self.outcome


class Recorder:
    """`step`: does one, and changes the tensors of `state`, which are all there from the first step on."""

    def __init__(self, step: Step, state: Callable[[], Sequence[torch.Tensor]]) -> None:
        self.step, self.state = step, state
        self.is_begun = False
        self.shape: tuple[object, ...] | None = None
        self.recordings: list[Recording] = []
        """the longest first; none where it cannot be recorded"""

    def play(self, epoch: Epoch) -> int:
        """Do the epoch's steps, where they can be recorded; returns the first that is not done."""
        start = 0
        if not self.is_begun:  # the first step makes what the optimiser keeps
            epoch.do(self.step, start, start := 1)
            self.is_begun = True
        if start == len(epoch.targets):  # of an epoch of one step the first was all
            return start
        weights = None if epoch.weights is None else epoch.weights.shape[2:]
        shape = epoch.rows.shape[1:], epoch.rows.dtype, epoch.targets.shape[1], weights
        if self.shape != shape:
            self.shape = shape
            self.recordings = self._recorded(epoch, start)
        steps = len(epoch.targets)
        for recording in self.recordings:
            while steps - start >= recording.count:
                epoch.fill(self.x, start, recording.count)
                recording.play(epoch, start)
                start += recording.count
        return start

    def _recorded(self, epoch: Epoch, start: int) -> list[Recording]:
        rows, size = epoch.rows, epoch.targets.shape[1]
        dtype = torch.float32 if rows.is_floating_point() else rows.dtype
        nbytes = size * math.prod(rows.shape[1:]) * dtype.itemsize
        count = max(1, min(STEPS, NBYTES // nbytes))
        try:
            self.x = rows.new_empty(count * size, *rows.shape[1:], dtype=dtype)
            recordings = [Recording(self.step, self.x, epoch, many) for many in sorted({count, 1}, reverse=True)]
            far = self._trial(recordings[-1], epoch, start)
            if far <= NEAR:
                return recordings
            reason = f"a parameter is {far:.2%} off"
        except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        LOG.warning("steps of training are not recorded with torch %s: %s", torch.__version__, reason)
        return []

    def _trial(self, recording: Recording, epoch: Epoch, start: int) -> float:
        """How far the parameters are apart after a step that is played back and the same step as it comes."""
        size = epoch.targets.shape[1]
        before = [tensor.clone() for tensor in self.state()]
        try:
            epoch.fill(self.x, start, 1)
            recording.play(epoch, start)
            played = [tensor.clone() for tensor in self.state()]
            self._put_back(before)
            weights = None if epoch.weights is None else epoch.weights[start]
            self.step(self.x.narrow(0, 0, size), epoch.targets[start], epoch.device_rates[start], weights)
            return _apart(played, self.state(), before)
        finally:
            self._put_back(before)

    @torch.no_grad()
    def _put_back(self, before: Sequence[torch.Tensor]) -> None:
        for tensor, value in zip(self.state(), before, strict=True):
            tensor.copy_(value)


def _apart(
    played: Sequence[torch.Tensor], stepped: Sequence[torch.Tensor], before: Sequence[torch.Tensor]
) -> float:
    """How far the tensors are apart, as a share of the one that is farthest; or, where a step changes them by so
    little that it does not show in that, as a share of what it changes in all of them together."""
    together, far = [0.0, 0.0, 0.0], 0.0
    for ours, theirs, first in zip(played, stepped, before, strict=True):
        if not torch.equal(ours.isfinite(), theirs.isfinite()):
            return math.inf
        a, b, c = (tensor.detach().float().nan_to_num(0, 0, 0) for tensor in (ours, theirs, first))
        norms = [float(difference.norm()) for difference in (a - b, b, b - c)]
        far = max(far, norms[0] / max(norms[1], 1e-12))
        together = [math.hypot(*pair) for pair in zip(together, norms, strict=True)]
    off, size, change = together
    return max(far, off / change) if off > SIMILAR * change + ROUNDING * size and change else far
