"""What caching at each legal cut will cost and bring, before anything is extracted: bytes, seconds, and after how
many epochs the cache has paid for itself.

How: a few cuts are measured on a few batches (decoding, the trunk up to the cut, the two together, writing rows
into a store, training and evaluating the head behind it), and the other cuts lie between them by multiply-adds and
bytes. Decoding and the trunk overlap, but on a CPU they share the cores, so how much they overlap is measured.

Invariant: a cut that was measured is predicted from its own measurements. Nothing is left behind: what is written
for the measurement goes into a temporary folder beside the store, and is removed.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.machine import cache_root
from headstart.common.progress import track
from headstart.common.sizes import parse_nbytes
from headstart.contract import registry
from headstart.contract.optimizers import Optimizer, optimizer_of
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer
from headstart.data import Dataset
from headstart.data.door import check_data_set
from headstart.data.loader import batches
from headstart.data.rows import pad
from headstart.data.summary import say
from headstart.features.extract import key_of
from headstart.features.inference import pixel_trunk
from headstart.models import Model, check_model
from headstart.store.feature_store import FeatureStore
from headstart.store.keys import TrunkKey, stored_dtype
from headstart.training.checks import check_sets
from headstart.training.feeds import EVALUATION_ROWS, evaluated
from headstart.training.modes import default_optimizer
from headstart.training.placement import held, memory_limit
from headstart.training.settings import Settings

MEASURED = 6
"""cuts at most, where none are named"""
REPEATS = 3
IMAGES = 128
"""that are decoded for the measurement, at most"""
HEAD_FLOPS = 4e10
"""of a measured step, at most: a step of a large head is measured on fewer samples"""
LEAST_SAMPLES = 8
ROWS_NBYTES = 128 << 20
"""of features that a head is measured on, at most"""
EPOCH_SECONDS = 0.5
"""that a measured epoch should last, at most"""
WRITTEN_NBYTES = 64 << 20
"""for the measurement of the disk"""


@dataclass(frozen=True)
class CutPlan:
    """What is expected at one cut."""

    cut: str
    shape: tuple[int, ...]
    """of one sample's features"""
    nbytes: int
    """of the features of all samples in the store"""
    trunk_multiply_adds: int
    """of one sample"""
    head_multiply_adds: int
    """of one sample, forward"""
    missing: int
    """samples whose features the store does not have yet"""
    extraction_seconds: float
    """until the store has them, what a framework compiles included"""
    cached_epoch_seconds: float
    """training and validation, compiling not included"""
    uncached_epoch_seconds: float
    """the same head, the trunk run in every epoch"""
    where: str
    """"device" or "disk": whether all features can be held, or are streamed"""
    measured: bool
    """False where it lies between cuts that were measured"""
    total_seconds: float
    """of the extraction and all epochs on the cache"""
    uncached_total_seconds: float

    @property
    def pays_off_after_epochs(self) -> int | None:
        """The number of epochs from which the cache has saved time; None: never."""
        gain = self.uncached_epoch_seconds - self.cached_epoch_seconds
        return max(1, math.ceil(self.extraction_seconds / gain)) if gain > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "shape": list(self.shape), "pays_off_after_epochs": self.pays_off_after_epochs}


@dataclass(frozen=True)
class Budget:
    """What caching may cost."""

    nbytes: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | Budget | None) -> Budget | None:
        """ "2GB", "10min", or both with a comma between them; SettingError otherwise."""
        if text is None or isinstance(text, Budget):
            return text
        if not isinstance(text, str):
            raise SettingError(f"budget={text!r}; expected a text such as '2GB', '10min' or '2GB,10min'")
        found: dict[str, float] = {}
        for part in text.split(","):
            time_of = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|min|h)\s*", part)
            name = "seconds" if time_of else "nbytes"
            if name in found:
                raise SettingError(f"budget={text!r} says twice how {'long' if time_of else 'large'}")
            if time_of:
                found[name] = float(time_of[1]) * {"s": 1, "min": 60, "h": 3600}[time_of[2]]
                continue
            try:
                found[name] = parse_nbytes(part)
            except SettingError:
                raise SettingError(
                    f"budget={text!r}; expected bytes such as 2GB, a time such as 90s, 10min or 2h, or both with "
                    "a comma between them"
                ) from None
        return cls(None if "nbytes" not in found else int(found["nbytes"]), found.get("seconds"))

    def holds(self, row: CutPlan) -> bool:
        return (self.nbytes is None or row.nbytes <= self.nbytes) and (
            self.seconds is None or row.total_seconds <= self.seconds
        )


@dataclass(frozen=True)
class Plan:
    """The cuts in the order of the graph, and what the prediction rests on."""

    rows: tuple[CutPlan, ...]
    epochs: int
    facts: Mapping[str, Any]
    """JSON-able: the backend, the device, samples, and the rates that were measured"""
    budget: Budget | None = None

    def __getitem__(self, cut: str) -> CutPlan:
        for row in self.rows:
            if row.cut == cut:
                return row
        raise SettingError(f"{cut!r} was not planned; expected one of {', '.join(row.cut for row in self.rows)}")

    @property
    def best(self) -> CutPlan | None:
        """Within the budget, the first cut in the network whose cache pays off within the epochs: the one that
        trains the most. None where no cut is within it, or no budget was given."""
        if self.budget is None:
            return None
        within = [row for row in self.rows if self.budget.holds(row)]
        paying = [row for row in within if (row.pays_off_after_epochs or self.epochs + 1) <= self.epochs]
        return next(iter(paying or within), None)

    def table(self) -> list[dict[str, Any]]:
        """A JSON-able dict for each cut."""
        return [row.as_dict() for row in self.rows]


def plan(
    model: Model,
    train: Dataset,
    val: Dataset | None = None,
    *,
    cuts: str | Sequence[str] | None = None,
    epochs: int = 5,
    budget: str | Budget | None = None,
    batch_size: int = 64,
    optimizer: str | Optimizer | None = None,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    workers: int | None = None,
    memory: int | str | None = None,
    cache: str | Path | None = None,
) -> Plan:
    """Predict for each cut of `model` what `fit` in the modes "cached" and "frozen" will take on these data sets
    with the same arguments. `cuts`: default all legal ones, but of those that cost the same and have the same
    shape, as before and behind an activation, the last.

    Takes seconds to a minute or two, most of it in the framework's compiler: a few batches are run at up to six
    cuts, at all of them where `cuts` are named. `budget`: bytes of the cache ("2GB"), time of extraction and
    `epochs` epochs ("10min"), or both ("2GB,10min"); `Plan.best` is then the cut that trains the most within it.

    Raises CutError, SettingError and its kin, ImageError for an image that cannot be decoded.
    """
    check_model(model)
    allowed = Budget.parse(budget)
    settings = Settings(
        mode="cached",
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        device=device,
        precision=precision,
        dtype=dtype,
        workers=workers,
        memory=memory,
    )
    model = model.without_auxiliary()
    for argument, data in (("train", train), ("val", val)):
        if data is not None or argument == "train":
            check_data_set(data, argument)
    check_sets(model, settings, train, val)
    named = [cuts] if isinstance(cuts, str) else list(cuts or ())
    name = registry.choose(backend, model.home)
    chosen = registry.load(name)
    say(train, val)
    bench = Bench(model, train, val, settings, chosen, chosen.place(device, precision), Path(cache_root(cache)))
    if named:
        wanted = set(map(model.graph.check_cut, named))
        nodes = measured = [cut for cut in bench.trunk_macs if cut in wanted]
    else:
        alike = {(macs, bench.shapes[cut]): cut for cut, macs in bench.trunk_macs.items()}  # the last of each
        nodes = list(alike.values())
        measured = spread(nodes, bench.trunk_macs, bench.head_macs)
    return bench.plan(nodes, measured, allowed)


def spread(nodes: Sequence[str], trunk: Mapping[str, int], head: Mapping[str, int]) -> list[str]:
    """The cuts to measure: the first and the last; the first that has as few multiply-adds behind it as the last
    (a map before its pooling has many times the bytes); others so that the trunk's multiply-adds between them are
    alike."""
    if len(nodes) <= MEASURED:
        return list(nodes)
    chosen = {nodes[0], nodes[-1]}
    chosen.add(next(node for node in nodes if head[node] == head[nodes[-1]]))
    low, high = trunk[nodes[0]], trunk[nodes[-1]]
    gaps = MEASURED - len(chosen)
    for k in range(1, gaps + 1):
        aim = low + (high - low) * k / (gaps + 1)
        rest = [node for node in nodes if node not in chosen]
        chosen.add(min(rest, key=lambda node: abs(trunk[node] - aim)))
    return [node for node in nodes if node in chosen]


@dataclass(frozen=True)
class Point:
    """What was measured at one cut, in seconds."""

    trunk: float
    """an image"""
    built: float
    """making and compiling the trunk"""
    step: float
    """a sample of training the head"""
    evaluation: float
    """a sample of evaluating it"""


class Bench:
    """Measures, and predicts from it."""

    def __init__(
        self,
        model: Model,
        train: Dataset,
        val: Dataset | None,
        settings: Settings,
        backend: Backend,
        place: Place,
        cache: Path,
    ) -> None:
        self.model, self.train, self.val = model, train, val
        self.settings, self.backend, self.place, self.cache = settings, backend, place, cache
        self.batch = min(settings.batch_size, len(train))
        self.shapes = model.graph.shapes(model.input_shape)
        macs = model.graph.main.macs(model.input_shape)
        total = sum(macs.values())
        self.trunk_macs = {
            cut: sum(macs[node.name] for node in model.graph.upto(cut).nodes) for cut in model.graph.main.cuts()
        }
        self.head_macs = {cut: total - before for cut, before in self.trunk_macs.items()}
        self.store = FeatureStore(cache)
        self.dtype = stored_dtype(settings.dtype)
        self.ids = sorted({*train.ids, *(val.ids if val else ())})
        """of all samples, each once"""

    def _row_nbytes(self, cut: str) -> int:
        return math.prod(self.shapes[cut]) * self.dtype.itemsize

    def _key(self, cut: str) -> TrunkKey:
        return key_of(self.model, cut, precision=self.settings.precision, dtype=self.settings.dtype)

    # ---- measuring

    def plan(self, nodes: Sequence[str], measured: Sequence[str], budget: Budget | None) -> Plan:
        with track("measuring", len(measured) + 2) as advance:
            images, decode = self._decode()
            advance()
            points: dict[str, Point] = {}
            for cut in measured:
                points[cut], run = self._point(cut, images)
                advance()
            overlap = self._overlap(run, decode, points[measured[-1]].trunk)
            write, read = self._disk(measured[0])
            advance()
        rates = {
            "decode_images_per_second": 1 / decode,
            "overlap": overlap,
            "write_bytes_per_second": 1 / write,
            "read_bytes_per_second": 1 / read,
        }
        between = self._between(nodes, points)
        samples = len(self.train) + (len(self.val) if self.val else 0)
        facts = {
            "backend": self.backend.name,
            "versions": registry.versions(self.backend.name),
            "device": self.place.device,
            "precision": self.place.precision,
            "threads": self.backend.threads(),
            "samples": samples,
            "batch_size": self.batch,
            "measured": list(measured),
            **rates,
        }
        rows = tuple(self._row(cut, between[cut], cut in points, decode, overlap, write, read) for cut in nodes)
        return Plan(rows, self.settings.epochs, facts, budget)

    def _decode(self) -> tuple[Any, float]:
        """A batch of images, and the seconds that decoding one takes."""
        count = min(len(self.train), max(IMAGES, self.batch))
        order = np.linspace(0, len(self.train) - 1, count).astype(np.int64)  # of all classes
        start = time.perf_counter()
        found = [batch.images for batch in self._batches(order)]
        return pad(found[0], self.batch), (time.perf_counter() - start) / count

    def _batches(self, order: np.ndarray) -> Iterator[Any]:
        s = self.settings
        return batches(self.train, self.model.preprocess, order, self.batch, workers=s.workers)

    def _point(self, cut: str, images: Any) -> tuple[Point, Callable[[Any], Any]]:
        start = time.perf_counter()
        trunk = pixel_trunk(self.model, [cut], self.backend, self.place)

        def run(images: Any) -> Any:  # as an extraction has it: in core's hands
            return self.backend.numpy(trunk.run(images)[cut])

        features = run(images)
        first = time.perf_counter() - start
        seconds = _median(lambda: run(images))
        step, evaluation = self._head(cut, features)
        return Point(seconds / self.batch, max(0.0, first - seconds), step, evaluation), run

    def _head(self, cut: str, features: np.ndarray) -> tuple[float, float]:
        """Seconds a sample of training and of evaluation, on rows like those in the store."""
        graph = self.model.graph.after(cut, self.model.input_shape)
        params = {name: self.model.params[name] for name in graph.param_shapes()}
        optimizer = optimizer_of(self.settings.optimizer, default_optimizer(graph, False), None)
        trainer = self.backend.trainer(graph, params, Recipe(optimizer, 0.0, False, 0), self.place)
        flops = 6 * self.head_macs[cut]  # of a sample: forward, and twice as much backward
        batch = min(self.batch, max(LEAST_SAMPLES, int(HEAD_FLOPS / max(1, flops))))
        count = batch
        if batch == self.batch:
            count = max(batch, min(len(self.train), ROWS_NBYTES // self._row_nbytes(cut)))
        with np.errstate(over="ignore"):  # an extraction would say so; here it is only timed
            stored = features.astype(self.dtype)
        rows = np.resize(stored, (count, *features.shape[1:]))
        handle, labels = trainer.put(rows), np.arange(count) % len(self.model.classes)
        rng = np.random.default_rng(0)

        def epoch(steps: int) -> float:
            order = np.stack([rng.permutation(count)[:batch] for _ in range(steps)])
            start = time.perf_counter()
            trainer.epoch(handle, labels, order, np.full(steps, 1e-6))
            return time.perf_counter() - start

        steps = 2
        epoch(steps)
        seconds = epoch(steps)
        full = len(self.train) // self.batch
        if seconds / steps * full < EPOCH_SECONDS and full > steps:  # then as long as it will be
            steps = full
            epoch(steps)
            seconds = median(epoch(steps) for _ in range(REPEATS))
        return seconds / (steps * batch), self._evaluation(trainer, handle, count)

    def _evaluation(self, trainer: Trainer, handle: Any, count: int) -> float:
        count = min(count, EVALUATION_ROWS, len(self.val) if self.val else count)
        return _median(lambda: evaluated(trainer, handle, count)) / count

    def _overlap(self, run: Callable[[Any], Any], decode: float, trunk: float) -> float:
        """Of the time of decoding and of the trunk, one after the other, how much they take together."""
        count = min(len(self.train), max(IMAGES, 2 * self.batch)) // self.batch * self.batch
        order = np.linspace(0, len(self.train) - 1, count).astype(np.int64)
        start = time.perf_counter()
        for batch in self._batches(order):
            run(batch.images)
        both = (time.perf_counter() - start) / count
        return min(1.0, both / (decode + trunk))

    def _disk(self, cut: str) -> tuple[float, float]:
        """Seconds a byte of features, written into a store and read from the disk."""
        shape, row = self.shapes[cut], self._row_nbytes(cut)
        count = max(1, min(WRITTEN_NBYTES // row, 4096))
        rows = np.ones((count, *shape), np.float32)
        ids = [f"{i:032x}" for i in range(count)]
        with _scratch(self.cache) as root:
            start = time.perf_counter()
            folder = FeatureStore(root).trunk(self._key(cut))
            with folder.writer(shape, self.settings.dtype, {"measurement": True}) as writer:
                for k in range(0, count, self.batch):
                    writer.add(ids[k : k + self.batch], rows[k : k + self.batch])
            written = time.perf_counter() - start
            files = [path for path in root.rglob("*") if path.is_file()]
            for path in files:
                _forget(path)
            start = time.perf_counter()
            nbytes = sum(len(path.read_bytes()) for path in files)
            return written / (count * row), (time.perf_counter() - start) / max(1, nbytes)

    # ---- predicting

    def _between(self, nodes: Sequence[str], points: Mapping[str, Point]) -> dict[str, Point]:
        """A point for each cut: its own, or what lies between those that were measured."""
        trunk = {cut: float(self.trunk_macs[cut]) for cut in self.trunk_macs}
        head = {cut: (float(self.head_macs[cut]), float(math.prod(self.shapes[cut]))) for cut in self.head_macs}
        of = {name: {cut: getattr(point, name) for cut, point in points.items()} for name in Point.__annotations__}
        result = {}
        for cut in nodes:
            result[cut] = points.get(cut) or Point(
                _along(trunk, of["trunk"], cut),
                _along(trunk, of["built"], cut),
                _by_work(head, of["step"], cut),
                _by_work(head, of["evaluation"], cut),
            )
        return result

    def _row(
        self, cut: str, point: Point, measured: bool, decode: float, overlap: float, write: float, read: float
    ) -> CutPlan:
        s = self.settings
        train, val = len(self.train), len(self.val) if self.val else 0
        row_nbytes = self._row_nbytes(cut)
        missing = len(self.store.trunk(self._key(cut), self.shapes[cut]).missing(self.ids))
        nbytes = len(self.ids) * row_nbytes

        def through(images: float, padded: float) -> float:
            """Seconds to decode so many and run the trunk on as many, those that fill the last batch included."""
            decoding, computing = images * decode, padded * point.trunk
            return max(decoding, computing, overlap * (decoding + computing))

        lacking = missing / len(self.ids)  # alike in both sets
        images = through(missing, self._padded(lacking * train) + self._padded(lacking * val))
        extraction = point.built + images + missing * row_nbytes * write if missing else 0.0
        steps = train // self.batch
        head = steps * self.batch * point.step + val * point.evaluation
        resident = held(nbytes, memory_limit(s.memory), self.backend.memory(self.place))[1]
        cached = head if resident else max(head, nbytes * read)
        uncached = head + through(steps * self.batch + val, steps * self.batch + self._padded(val))
        return CutPlan(
            cut=cut,
            shape=self.shapes[cut],
            nbytes=nbytes,
            trunk_multiply_adds=self.trunk_macs[cut],
            head_multiply_adds=self.head_macs[cut],
            missing=missing,
            extraction_seconds=extraction,
            cached_epoch_seconds=cached,
            uncached_epoch_seconds=uncached,
            where="device" if resident else "disk",
            measured=measured,
            total_seconds=extraction + s.epochs * cached,
            uncached_total_seconds=s.epochs * uncached,
        )

    def _padded(self, count: float) -> int:
        """The rows that a trunk runs for so many samples: full batches, as compiled code wants them."""
        size = min(self.batch, math.ceil(count))
        return math.ceil(count / size) * size if size else 0


def _along(position: Mapping[str, float], values: Mapping[str, float], cut: str) -> float:
    """Linear between the values at their positions."""
    known = sorted((position[name], value) for name, value in values.items())
    return float(np.interp(position[cut], [x for x, _ in known], [y for _, y in known]))


def _by_work(work: Mapping[str, Sequence[float]], values: Mapping[str, float], cut: str) -> float:
    """A constant and so much for each kind of work, as fits the values best, none of them negative; and what the
    nearest measured cut differs from that by."""
    names = list(values)
    y = np.array([values[name] for name in names])
    x = np.array([[1.0, *work[name]] for name in names])
    scale = x.max(0)
    used = [k for k in range(x.shape[1]) if scale[k] > 0]
    coefficients = np.zeros(x.shape[1])
    while used:
        # relative errors: a linear head's microseconds count as much as a block's milliseconds
        fit = np.linalg.lstsq(x[:, used] / scale[used] / y[:, None], np.ones(len(y)), rcond=None)[0]
        if (fit >= 0).all():
            coefficients[used] = fit / scale[used]
            break
        used.remove(used[int(fit.argmin())])
    fitted = x @ coefficients
    at = np.array([1.0, *work[cut]])
    nearest = int(np.abs(np.log((x[:, 1:] + 1) / (at[1:] + 1))).sum(1).argmin())
    return float(at @ coefficients * (y[nearest] / fitted[nearest] if fitted[nearest] > 0 else 1.0))


def _median(action: Callable[[], Any]) -> float:
    """Seconds; the first run, in which a framework compiles, is not counted."""
    action()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A temporary folder on the store's disk, or on the system's where the store cannot be written to."""
    parent = next((one for one in (cache, *cache.parents) if one.is_dir()), None)
    usable = parent is not None and os.access(parent, os.W_OK)
    with tempfile.TemporaryDirectory(prefix=".headstart-plan-", dir=parent if usable else None) as folder:
        yield Path(folder)


def _forget(path: Path) -> None:
    """Have the system forget what it keeps of a file in memory, where that can be asked for."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
