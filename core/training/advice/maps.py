"""A map of features in two dimensions: by UMAP where umap-learn is installed, else the first principal
components."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np

from headstart.data import Dataset
from headstart.data.annotations import SINGLE
from headstart.data.samples import Samples
from headstart.report.pictures import thumbnails
from headstart.training.advice.held_out import standardised

POINTS = 300
PIXELS = 40
"""of a picture's longer side"""


def feature_map(x: np.ndarray, data: Samples, images: Dataset | None) -> dict[str, Any]:
    """JSON-able: {"method", "share", "points": [{"x", "y", "class", "label", "picture"}]}, x and y from 0 to 1.

    `x`: `(n, d)`, of the samples of `data`; a few hundred are drawn. `images`: whose pictures are shown; None:
    none. "share": of the features' variance, what principal components show.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(x))[:POINTS])
    places, method, share = _places(x, rows)
    low, high = places.min(0), places.max(0)
    places = (places - low) / np.where(high > low, high - low, 1)
    shown = {} if images is None else thumbnails(images, rows.tolist(), PIXELS)
    points = [
        {
            "x": round(float(place[0]), 4),
            "y": round(float(place[1]), 4),
            "class": int(data.labels[row]) if data.task == SINGLE else None,
            "label": data.annotations.label_text(int(row)),
            "picture": shown.get(data.ids[row]),
        }
        for row, place in zip(rows.tolist(), places, strict=True)
    ]
    return {"method": method, "share": share, "classes": list(data.classes), "task": data.task, "points": points}


def _places(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, str, float | None]:
    x = standardised(x)
    if find_spec("umap") is not None and len(rows) > 15:  # of the extra headstart[umap]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            umap = _umap()
            return np.asarray(umap.UMAP(random_state=0).fit_transform(x[rows]), np.float64), "UMAP", None
    from sklearn.decomposition import PCA

    count = min(2, *x.shape)
    pca = PCA(count, svd_solver="full" if min(x.shape) <= 500 else "randomized", random_state=0).fit(x)
    places = pca.transform(x[rows]).astype(np.float64)
    if count < 2:
        places = np.concatenate([places, np.zeros((len(places), 2 - count))], 1)
    return places, "PCA", float(pca.explained_variance_ratio_.sum())


def _umap() -> Any:
    """The module of umap-learn that has UMAP, without the package's others: one of them imports TensorFlow where
    it is installed, which takes seconds, and beside which torch's compiler cannot be imported any more."""
    name = "umap"
    if name in sys.modules:
        return import_module("umap.umap_")
    spec = find_spec(name)
    assert spec is not None
    sys.modules[name] = module_from_spec(spec)  # it knows where its modules are, and has imported none
    try:
        return import_module("umap.umap_")
    finally:
        del sys.modules[name]
