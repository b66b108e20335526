"""Predicts what is expected at all cuts from what was measured at a few. Arithmetic only: no clock, no
framework, no disk.

Invariant: a cut that was measured is predicted from its own measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.data.order import epoch_shape
from headstart.models import Model
from headstart.training.placement import DISK
from headstart.training.planning.table import CutPlan

MEASURED = 6
"""cuts at most, where none are named"""


@dataclass(frozen=True)
class Work:
    """The work and the bytes of one sample at a cut, on any machine."""

    shape: tuple[int, ...]
    """of its features"""
    row_nbytes: int
    """of its features in the store"""
    trunk_macs: int
    """multiply-adds up to the cut"""
    head_macs: int
    """multiply-adds behind it, forward"""


@dataclass(frozen=True)
class Point:
    """What was measured at one cut."""

    trunk_seconds: float
    """of running the trunk, an image"""
    build_seconds: float
    """of making and compiling the trunk, once"""
    step_seconds: float
    """of training the head, a sample"""
    evaluation_seconds: float
    """of evaluating the head, a sample"""


@dataclass(frozen=True)
class Rates:
    """What was measured of the machine, whatever the cut."""

    decode: float
    """seconds an image"""
    overlap: float
    """the time that decoding and the trunk take together, as a share of what they take one after the other; 1:
    they do not overlap"""
    write: float
    """seconds a byte of features, into the store"""
    read: float
    """seconds a byte of features, from the disk"""

    def as_dict(self) -> dict[str, float]:
        """JSON-able, as things a second."""
        return {
            "decode_images_per_second": 1 / self.decode,
            "overlap": self.overlap,
            "write_bytes_per_second": 1 / self.write,
            "read_bytes_per_second": 1 / self.read,
        }


@dataclass(frozen=True)
class Load:
    """The amount of data that is trained on."""

    train: int
    """samples"""
    val: int
    """samples"""
    distinct: int
    """samples of both, those with the same bytes counted once, as the store keeps them"""
    batch: int
    """of an extraction; at most so many are trained on in a step"""


def work_at_cuts(model: Model, itemsize: int) -> dict[str, Work]:
    """At each legal cut, in the graph's order. `itemsize`: bytes of a stored number."""
    shapes = model.graph.shapes(model.input_shape)
    macs = model.graph.main.macs(model.input_shape)
    total = sum(macs.values())
    work = {}
    for cut in model.graph.main.cuts():
        trunk = sum(macs[node.name] for node in model.graph.upto(cut).nodes)
        work[cut] = Work(shapes[cut], math.prod(shapes[cut]) * itemsize, trunk, total - trunk)
    return work


def distinct_cuts(work: Mapping[str, Work], default: str) -> list[str]:
    """Of the cuts that cost the same and have the same shape, as before and behind an activation, the last; or the
    default one, at which the features are that `fit` takes."""
    last: dict[tuple[int, tuple[int, ...]], str] = {}
    for cut, of_cut in work.items():
        costs = (of_cut.trunk_macs, of_cut.shape)
        if last.get(costs) != default:
            last[costs] = cut
    return list(last.values())


def cuts_to_measure(cuts: Sequence[str], work: Mapping[str, Work]) -> list[str]:
    """Up to six of `cuts`: the first and the last; the first that has as few multiply-adds behind it as the last
    (a map before its pooling has many times the bytes); others at about equal
    distances in the trunk's multiply-adds."""
    if len(cuts) <= MEASURED:
        return list(cuts)
    picked = {cuts[0], cuts[-1]}
    picked.add(next(cut for cut in cuts if work[cut].head_macs == work[cuts[-1]].head_macs))
    low, high = work[cuts[0]].trunk_macs, work[cuts[-1]].trunk_macs
    gaps = MEASURED - len(picked)
    for k in range(1, gaps + 1):
        aim = low + (high - low) * k / (gaps + 1)
        rest = [cut for cut in cuts if cut not in picked]
        picked.add(min(rest, key=lambda cut: abs(work[cut].trunk_macs - aim)))
    return [cut for cut in cuts if cut in picked]


def between(cuts: Sequence[str], work: Mapping[str, Work], points: Mapping[str, Point]) -> dict[str, Point]:
    """A point for each of `cuts`: as measured, or interpolated between cuts that were."""
    trunk_macs = {cut: float(of_cut.trunk_macs) for cut, of_cut in work.items()}
    head_work = {cut: (float(of_cut.head_macs), float(math.prod(of_cut.shape))) for cut, of_cut in work.items()}
    seconds = {
        name: {cut: getattr(point, name) for cut, point in points.items()} for name in Point.__dataclass_fields__
    }
    return {
        cut: points.get(cut)
        or Point(
            _on_a_line(trunk_macs, seconds["trunk_seconds"], cut),
            _on_a_line(trunk_macs, seconds["build_seconds"], cut),
            _by_work(head_work, seconds["step_seconds"], cut),
            _by_work(head_work, seconds["evaluation_seconds"], cut),
        )
        for cut in cuts
    }


def predicted(
    cut: str,
    work: Work,
    point: Point,
    rates: Rates,
    load: Load,
    *,
    epochs: int,
    missing: int,
    where: str,
    measured: bool,
) -> CutPlan:
    """What extraction and training take at a cut.

    `epochs`: that are trained, if nothing ends the training before.
    `missing`: samples whose features the store lacks. `where`: `Placement.where` of all of them.
    `measured`: `point` is the cut's own.
    """
    train, val, batch = load.train, load.val, load.batch
    nbytes = load.distinct * work.row_nbytes

    def through(images: float, rows: float) -> float:
        """Seconds to decode so many images and to run the trunk on so many rows, those that fill the last batch
        included."""
        decoding, computing = images * rates.decode, rows * point.trunk_seconds
        return max(decoding, computing, rates.overlap * (decoding + computing))

    lacking = missing / load.distinct  # alike in both sets
    images = through(missing, padded(lacking * train, batch) + padded(lacking * val, batch))
    extraction = point.build_seconds + images + missing * work.row_nbytes * rates.write if missing else 0.0
    steps, size = epoch_shape(train, batch)
    trained = steps * size
    head = trained * point.step_seconds + val * point.evaluation_seconds
    cached = max(head, nbytes * rates.read) if where == DISK else head
    uncached = head + through(trained + val, trained + padded(val, size))
    return CutPlan(
        cut=cut,
        shape=work.shape,
        nbytes=nbytes,
        trunk_multiply_adds=work.trunk_macs,
        head_multiply_adds=work.head_macs,
        missing=missing,
        extraction_seconds=extraction,
        cached_epoch_seconds=cached,
        uncached_epoch_seconds=uncached,
        where=where,
        measured=measured,
        epochs=epochs,
        total_seconds=extraction + epochs * cached,
        uncached_total_seconds=epochs * uncached,
    )


def padded(count: float, batch: int) -> int:
    """The number of rows that a trunk runs for so many samples: full batches, as compiled code needs one shape."""
    size = min(batch, math.ceil(count))
    return math.ceil(count / size) * size if size else 0


def _on_a_line(position: Mapping[str, float], values: Mapping[str, float], cut: str) -> float:
    """Linear between the values at their positions; the nearest value outside them."""
    known = sorted((position[name], value) for name, value in values.items())
    return float(np.interp(position[cut], [x for x, _ in known], [y for _, y in known]))


def _by_work(work: Mapping[str, Sequence[float]], seconds: Mapping[str, float], cut: str) -> float:
    """The seconds that a cut takes, from its amounts of work.

    `work`: cut -> amounts, one for each kind of work. `seconds`: measured cut -> what it took. Two steps:
    1. A line is fitted: `a + b * amount + c * other amount ...`, with no factor below zero, so that more work
       never takes less time. Errors count relative to the seconds.
    2. The line's value at `cut` is multiplied by how far the line is off at the measured cut whose amounts are
       nearest. So the line is right at that one, and nearly right beside it.
    """
    names = list(seconds)
    y = np.array([seconds[name] for name in names])
    x = np.array([[1.0, *work[name]] for name in names])
    scale = x.max(0)
    used = [k for k in range(x.shape[1]) if scale[k] > 0]
    factors = np.zeros(x.shape[1])
    while used:
        # relative errors: a linear head's microseconds count as much as a block's milliseconds
        fit = np.linalg.lstsq(x[:, used] / scale[used] / y[:, None], np.ones(len(y)), rcond=None)[0]
        if (fit >= 0).all():
            factors[used] = fit / scale[used]
            break
        used.remove(used[int(fit.argmin())])
    fitted = x @ factors
    here = np.array([1.0, *work[cut]])
    nearest = int(np.abs(np.log((x[:, 1:] + 1) / (here[1:] + 1))).sum(1).argmin())
    return float(here @ factors * (y[nearest] / fitted[nearest] if fitted[nearest] > 0 else 1.0))
