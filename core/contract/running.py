"""What a backend makes of a graph: a trunk that runs, a trainer that updates. Their arrays are numpy's, or native
ones under an opaque handle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from headstart.contract.streams import Dtypes


class Trunk(Protocol):
    """A frozen graph in inference mode, ready to run."""

    def run(self, images: Any) -> dict[str, Any]:
        """`(n, h, w, c)` images, or a wrapped module's inputs as core has them (an array or a dict of arrays) ->
        node name -> native array of its output, computed when this returns."""

    def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        """What `run` gives for each of `batches`, in order, of the nodes in `dtypes`, as numpy's arrays, in the
        dtype that is asked for or in float32. In float32 must be a batch that the dtype does not hold
        (`headstart.contract.streams.is_held`), so that core can say of which row and why.

        A few batches may be under way: the next ones are taken from `batches` before a result is given. An array
        that was taken is not written to afterwards, neither here nor by core; nor is a result, which others read
        while the next ones are computed. Optional: without it core takes
        `headstart.contract.streams.one_by_one`."""

    def params(self) -> dict[str, np.ndarray]:
        """The parameters as they are on the device now, by the names they came with."""


class Trainer(Protocol):
    """A graph whose parameters are all trained, on mini-batches or on whole epochs of resident rows."""

    def put(self, rows: np.ndarray) -> Any:
        """Copy feature rows `(n, ...)` to the device, once."""

    def epoch(
        self,
        rows: Any,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        """Train on resident `rows`: step i on the rows `order[i]` (int64 `(steps, batch)`) at learning rate
        `rates[i]`; without `order` on batch after batch as they lie, `steps * batch` rows, which spares
        gathering them: so they come from a thread that reads the next ones meanwhile. `targets` are as the
        recipe's loss has them (`headstart.contract.losses`); `weights` float32 `(n,)`, None where all samples
        count alike. Returns the losses `(steps, outputs)`, the graph's output first and then its auxiliary ones,
        without their shares in the sum, and the number of samples that the output classified right
        (`headstart.contract.losses.right`), each before its step's update; none of a step whose loss is not
        finite, since `argmax` gives class 0 for NaN."""

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """One step on one batch: what `Trunk.run` takes, or a native array as it returns it. Losses
        `(outputs,)`."""

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        """Inference on the rows `start:stop` of `put`'s handle or of a batch; float32 `(n, classes)`."""

    def params(self) -> dict[str, np.ndarray]:
        """All parameters as they are now, statistics included, in torchvision's layout."""

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        """The parameters of now, to be read later or never: a function of what `params` would have returned,
        whatever is trained meanwhile. Core takes one after every epoch that is the best so far and keeps the last,
        so it is to cost next to nothing: arrays stay on the device, and nothing is waited for. Optional: without
        it core takes `params`."""

    def state(self) -> dict[str, np.ndarray]:
        """All that a step changes: parameters and statistics, what the optimiser keeps, the count of steps, from
        which masks of dropout follow, and where a wrapped module's generators of random numbers are. Copies, under
        names and in a layout of the backend's own. Trainers of one graph and recipe have the same names, shapes
        and dtypes, before the first step as after it: by these core tells a state of something else. Optional,
        with the next one: "state"."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state, which is left as it is: on a CPU the steps that follow give to the bit what they
        gave the trainer whose state it is. Core has checked names, shapes and dtypes."""
