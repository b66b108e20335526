"""Compares stored rows with rows computed anew. Only that finds rows of another sample, or of other weights.
Checksums find damage, not malice: whoever can write a shard can write right checksums.

Invariant: the rows are drawn so that nobody who writes a cache can know beforehand which are compared
(`headstart.data.draws`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError
from headstart.common.text import share_text
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.draws import drawn
from headstart.data.summary import say
from headstart.features.distances import distances, limit_of, wrong_rows
from headstart.features.extractor import Extractor
from headstart.models import Model, check_model


@dataclass(frozen=True)
class Difference:
    """A stored row that is not what the trunk gives for its sample."""

    sample: str
    """path, or e.g. "image 3 of arrays" """
    cut: str
    view: int
    shard: Path
    distance: float
    """from the row computed anew, as a share of its length"""

    def __str__(self) -> str:
        view = f", view {self.view}" if self.view else ""
        return f"{self.sample} at {self.cut}{view}: {share_text(self.distance)} off in {self.shard}"


@dataclass(frozen=True)
class RecomputeReport:
    """What `verify` found."""

    compared: int
    """stored rows; of a sample that several shards hold, each"""
    without_features: int
    """samples of the data set that a cut or view has no features of, summed over these"""
    differing: tuple[Difference, ...]

    def __bool__(self) -> bool:
        """Whether all that was compared is right."""
        return not self.differing

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        differing = [{**asdict(difference), "shard": str(difference.shard)} for difference in self.differing]
        return {"compared": self.compared, "without_features": self.without_features, "differing": differing}


def verify(
    model: Model,
    data: Dataset,
    cuts: str | Sequence[str] | None = None,
    *,
    samples: int = 32,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    batch_size: int | str = 64,
    workers: int | None = None,
    cache: str | Path | None = None,
    augment: str | Augment | None = None,
    views: int = 1,
    seed: int = 0,
) -> RecomputeReport:
    """Draw `samples` of `data` for each cut and view, unpredictably, from those that have features in the store,
    and compare every stored copy of them, in shared caches as well, with what the trunk computes now. Nothing is
    stored.

    The other arguments are `extract`'s; so are the errors. Samples are computed in batches of others than at
    first, by another machine perhaps: a row may be off by 0.5 % of its length (1 % in bfloat16, 2 % of decoded
    images; where the trunk computes in bfloat16 5 %, in tf32 or float16 1 %), and less where samples differ by
    less.
    """
    check_model(model)
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 1:
        raise SettingError(f"samples={samples!r}; expected an integer of 1 or more")
    extractor = Extractor(
        model,
        cuts,
        backend=backend,
        device=device,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        cache=cache,
        augment=augment,
        views=views,
        seed=seed,
    )
    model.preprocess.check(data)
    say(data)
    place = {id: i for i, id in reversed(list(enumerate(data.ids)))}
    compared = without = 0
    differing: list[Difference] = []
    for node, folders in extractor.folders.items():
        for view, folder in enumerate(folders):
            stored = set(folder.ids())
            present = np.array([i for id, i in place.items() if id in stored], np.intp)
            without += len(place) - len(present)
            positions = present[drawn(len(present), int(samples))]
            count, found = _compared(extractor, data, node, view, positions)
            compared += count
            differing += found
    return RecomputeReport(compared, without, tuple(differing))


def _compared(
    extractor: Extractor, data: Dataset, node: str, view: int, positions: NDArray[np.intp]
) -> tuple[int, list[Difference]]:
    """(number of stored rows of these samples that were compared, those of them that are wrong)."""
    if not len(positions):
        return 0, []
    folder = extractor.folders[node][view]
    fresh = np.concatenate([rows for _, rows in extractor.batch_features.recomputed(data, node, view, positions)])
    precision = extractor.batch_features.precision
    limit = limit_of(folder.dtype_name, precision)
    count, differing = 0, []
    for shard, places, rows in folder.copies([data.ids[i] for i in positions]):
        count += len(places)
        wrong = wrong_rows(fresh[places], rows, limit, folder.dtype_name, precision)
        far = distances(fresh[places], rows)
        differing += [
            Difference(data.source_name(int(positions[places[k]])), node, view, shard.path, float(far[k]))
            for k in np.flatnonzero(wrong).tolist()
        ]
    return count, differing
