"""Looks at one trunk: one pass over the data, then figures of each cut's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.common.progress import track
from headstart.data import Dataset
from headstart.features.engines.settings import Ray
from headstart.features.extractor import Extractor
from headstart.training.advice.candidates import Candidate
from headstart.training.advice.familiarity import familiarity
from headstart.training.advice.held_out import Positions
from headstart.training.advice.measuring import CutFigures, error_of, measure
from headstart.training.advice.result import TrunkFigures
from headstart.training.advice.rule import Evidence


def look_at(
    candidate: Candidate,
    data: Dataset,
    folds: Sequence[Positions] | None,
    samples: int,
    where: Mapping[str, Any],
    seed: int,
    engine: Ray | None = None,
) -> tuple[TrunkFigures, np.ndarray]:
    """What the features of a trunk tell, and those that its classifier takes, float32 `(n, d)`.

    `data`: the samples that are looked at, `folds` of them; `samples`: how many there are to train on. `where`:
    keyword arguments of `extract`: backend, device and so on; `engine`: as there."""
    model = candidate.model
    extracted = Extractor(model, candidate.cuts, pooled=True, engine=engine, **where)(data)
    shapes = model.graph.shapes(model.input_shape)
    cuts: list[CutFigures] = []
    x = np.empty((0, 0), np.float32)
    with track(f"looking at {candidate.label}", len(candidate.cuts)) as advance:
        for cut in candidate.cuts:
            rows = extracted.numpy(cut).astype(np.float32)
            x = rows.reshape(len(rows), -1) if rows.ndim != 3 else rows.mean(1)  # tokens that have no class token
            cuts.append(measure(cut, shapes[cut], x, data, folds, seed))
            advance()
    last = cuts[-1]
    half = dict(last.curve).get(last.curve[-2][0], last.score)
    evidence = Evidence(
        samples=samples,
        classes=len(data.classes),
        error=last.error,
        earlier_error=min((cut.error for cut in cuts[:-1]), default=last.error),
        seen_error=error_of(last.seen, data),
        half_error=error_of(half, data),
        knn_error=error_of(last.knn, data),
        pretrained=candidate.pretrained,
        confidence=None if (known := familiarity(model, x)) is None else known.confidence,
    )
    return TrunkFigures(candidate.label, model, candidate.named_weights, tuple(cuts), known, evidence), x
