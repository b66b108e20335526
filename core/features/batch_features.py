"""Features of batches of samples, computed now and not stored: decoded images through the frozen trunk of a model.

Invariant: row i of what comes with a batch belongs to the batch's sample i; padding is cut off.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from headstart.common.errors import FeatureUnderflowError
from headstart.common.version import __version__
from headstart.contract import registry
from headstart.contract.recipe import FLOAT16, Place
from headstart.contract.running import Trunk
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.draws import drawn
from headstart.data.loader import Batch, batches
from headstart.data.rows import pad
from headstart.features.batch_sizes import USUAL, samples_at_once
from headstart.features.company import GROUP, check_company
from headstart.features.inference import pixel_trunk
from headstart.features.trunk_keys import INPUT
from headstart.models import Model
from headstart.store.feature_folder import FeatureFolder

Observe = Callable[[Dataset, Batch, Mapping[str, np.ndarray]], None]
"""a function of a data set, a batch of it, and the batch's features by node, called before they are stored; what
it raises ends the extraction"""


@dataclass(eq=False)
class BatchFeatures:
    """Computes features at the same nodes for one data set after another. The trunk is built when it is first
    needed."""

    model: Model
    folders: Mapping[str, Sequence[FeatureFolder]]
    """node -> where the features of each view are stored"""
    backend_name: str
    device: str
    precision: str
    batch_size: int | str
    """samples that are run at once, or "auto" """
    workers: int | None
    augment: Augment | None
    seed: int
    observe: Observe | None
    """is called with each batch as it is computed"""

    @cached_property
    def nodes(self) -> list[str]:
        """Those that a trunk computes."""
        return [node for node in self.folders if node != INPUT]

    @cached_property
    def place(self) -> Place:
        return registry.load(self.backend_name).place(self.device, self.precision)

    @cached_property
    def trunk(self) -> Trunk:
        """The frozen part of the model, up to the last of the nodes: batch norms folded away, and normalising the
        loader's uint8 pixels itself."""
        return pixel_trunk(self.model, self.nodes, registry.load(self.backend_name), self.place)

    @cached_property
    def at_once(self) -> int:
        """How many samples are run at once. By "auto" it is asked when the trunk is on the device."""
        if not self.nodes or not isinstance(self.batch_size, str):
            return USUAL if isinstance(self.batch_size, str) else self.batch_size
        assert self.trunk is not None  # on the device, before that is asked what it has left
        return samples_at_once(
            self.batch_size,
            self.model.graph.upto(*self.nodes),
            self.model.input_shape,
            self.nodes,
            registry.load(self.backend_name),
            self.place,
        )

    @property
    def built_trunk(self) -> Trunk | None:
        """The trunk; None where it was not needed and so has not been built."""
        return self.__dict__.get("trunk")

    def with_own_trunk(self) -> BatchFeatures:
        """The same with a trunk of its own, which goes when it goes."""
        other = copy.copy(self)
        other.__dict__.pop("trunk", None)
        return other

    def provenance(self, node: str) -> dict[str, Any]:
        """JSON-able: which program computes the features of `node`, with which versions, on which device. It is
        written beside the rows. Decoded images, the features at the cut "input", are Pillow's work."""
        if node == INPUT:
            versions = {"pillow": version("pillow")}
            return {"headstart": __version__, "backend": "pillow", "versions": versions, "device": "cpu"}
        return {
            "headstart": __version__,
            "backend": self.backend_name,
            "versions": registry.versions(self.backend_name),
            "device": self.place.device,
        }

    def check_company(self, data: Dataset) -> None:
        """SettingError where a wrapped module's features of a sample depend on the others in its batch: a few real
        samples of `data` are run in several batches."""
        if self.model.home is None or not self.nodes:
            return
        backend = registry.load(self.backend_name)
        order = drawn(len(data), GROUP)
        for batch in self.decoded(data, 0, order, len(order), workers=1):
            check_company(
                batch,
                lambda rows: {node: backend.numpy(value) for node, value in self.trunk.run(rows).items()},
                self.place,
                graph=self.model.graph,
            )

    def decoded(
        self, data: Dataset, view: int, order: np.ndarray, size: int, *, workers: int | None
    ) -> Generator[Batch, None, None]:
        """Batches of `size` samples of the data set, in an order, as one view has them."""
        return batches(
            data,
            self.model.preprocess,
            order,
            size,
            workers=workers,
            augment=self.augment,
            seed=self.seed,
            epoch=view,
        )

    def of(
        self, data: Dataset, decoded: Iterable[Batch], size: int, nodes: Collection[str]
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Batches, and their features `(b, ...)` at these nodes; `size` rows are run at once."""
        dtypes = {node: self.folders[node][0].dtype for node in nodes if node != INPUT}
        under_way: deque[Batch] = deque()

        def inputs() -> Iterator[Any]:
            for batch in decoded:
                under_way.append(batch)
                yield pad(batch.images, size)

        outputs = self.trunk.stream(inputs(), dtypes) if dtypes else ({} for _ in inputs())
        for of_trunk in outputs:
            batch = under_way.popleft()
            rows = {node: of_trunk[node][: len(batch.ids)] for node in dtypes}
            if self.precision == FLOAT16:
                for node in dtypes:
                    _check_some_are_left(rows[node], node)
            if INPUT in nodes:
                rows[INPUT] = batch.images
            if self.observe is not None:
                self.observe(data, batch, rows)
            yield batch, rows

    def recomputed(
        self, data: Dataset, node: str, view: int, sample: np.ndarray
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of these samples of the data set, and their features `(b, ...)` at a node."""
        size = min(self.at_once, len(data))  # what an extraction ran with, so that nothing compiles again
        for batch, rows in self.of(data, self.decoded(data, view, sample, size, workers=1), size, [node]):
            yield batch, np.asarray(rows[node])


def _check_some_are_left(rows: np.ndarray, node: str) -> None:
    """FeatureUnderflowError for a batch's features of a trunk in float16 that are zeros alone: what it computes on
    the way is below that type's range, which the stored rows do not show."""
    if not rows.any():
        raise FeatureUnderflowError(
            f"computed in float16, all features at {node!r} of {len(rows)} samples are 0: numbers on the way are "
            "below 6e-08, where float16 ends. Use precision='bfloat16' or 'float32'"
        )
