"""The samples on which an exported model is held to the run: real ones where there are any, else pictures that are
drawn, which is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from headstart.common.errors import DataError, SettingError
from headstart.data import Dataset, arrays, open_data
from headstart.data.inputs import Arrays
from headstart.data.preprocess import Preprocess
from headstart.data.rows import each
from headstart.data.sources import BUILTIN, NAMES
from headstart.features.feature_set import FeatureSet
from headstart.models.exporting.parts import HEAD
from headstart.training.exporting.request import Request
from headstart.training.prediction import prepared

MOST = 63
"""samples, nine batches of seven: a network of 4 GFLOPs runs them in seconds"""
SEED = 0
VALIDATION, GIVEN = "validation samples", "given samples"
DRAWN, DRAWN_INPUTS = (f"random {what} (seed {SEED})" for what in ("pictures", "inputs"))


class Probes(NamedTuple):
    """Samples, and what they are."""

    data: Dataset | FeatureSet
    """of features only where a head is exported"""
    words: str
    """one of `VALIDATION`, `GIVEN`, `DRAWN` and `DRAWN_INPUTS`"""


def probes(request: Request, data: Any, val: Any) -> Probes:
    """At most `MOST` samples, spread evenly over what there is: of `data`, whatever `hs.predict` takes, or the
    name of a data set of headstart's; else of `val`, the run's validation data; else drawn. Raises what opening
    `data` raises, SettingError for features of which the export has no use, and DataError where there is no
    sample."""
    if data is not None:
        if isinstance(data, FeatureSet):
            if request.part != HEAD:
                raise SettingError(
                    "data is a FeatureSet, which can verify the export of a head; expected pictures"
                )
            return Probes(_spread(data), GIVEN)
        return Probes(_spread(_as_data_set(request, data)), GIVEN)
    if isinstance(val, Dataset) or (isinstance(val, FeatureSet) and request.part == HEAD):
        return Probes(_spread(val), VALIDATION)
    preprocess = request.model.preprocess
    return Probes(_drawn(preprocess), DRAWN if isinstance(preprocess, Preprocess) else DRAWN_INPUTS)


def _as_data_set(request: Request, data: Any) -> Dataset:
    if isinstance(data, str) and data.removeprefix(BUILTIN) in NAMES and not Path(data).exists():
        data = open_data(data)
    if isinstance(data, Dataset) and data.parts:
        data = data.parts.get("val", data)
    ready = prepared(request.model, data)
    if isinstance(ready, Dataset):
        return ready
    if isinstance(request.model.preprocess, Preprocess):
        raise SettingError(
            "data are pictures that are preprocessed already, so the preprocessing could not be verified; "
            "expected photographs: a folder, files, uint8 arrays"
        )
    return _unlabelled(ready)


def _unlabelled(samples: Any) -> Dataset:
    first = next(iter(samples.values())) if isinstance(samples, dict) else samples
    return arrays(samples, np.zeros(len(first), np.int64))


def _spread(data: Any) -> Any:
    if not len(data):
        raise DataError(f"there is no sample in {data.name!r} to verify an export on")
    return data.subset(np.unique(np.linspace(0, len(data) - 1, min(MOST, len(data))).astype(np.int64)))


def _drawn(preprocess: Preprocess | Arrays) -> Dataset:
    """Pictures of several shapes with large and small structures in all colours, so that a crop, a turned channel
    or a border makes a difference; of other inputs numbers from a normal distribution, and 0 or 1 where they are
    whole."""
    rng = np.random.default_rng(SEED)
    if isinstance(preprocess, Preprocess):
        return _unlabelled([_picture(rng, preprocess.resize) for _ in range(MOST)])
    rows = {
        name: rng.integers(0, 2, (MOST, *shape)).astype(dtype)
        if np.dtype(dtype).kind in "biu"
        else rng.standard_normal((MOST, *shape)).astype(dtype)
        for name, shape, dtype in preprocess.entries
    }
    return _unlabelled(next(iter(rows.values())) if preprocess.alone else each(np.asarray, rows))


def _picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """`(h, w, 3)` uint8."""
    width, height = rng.integers(side, side + side // 2 + 2, 2).tolist()
    cells = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return np.clip(smooth + rng.normal(0, 16, smooth.shape), 0, 255).astype(np.uint8)
