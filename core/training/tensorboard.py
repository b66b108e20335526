"""`tensorboard=DIR`: what a run records, as TensorBoard reads it. tensorboardX has the format; TensorFlow is not
needed, and all backends write the same.

TensorBoard draws one chart for each tag and one line in it for each run, and a run is a folder. So training and
validation are two runs, `DIR/train` and `DIR/validation`, as Keras has them, and both write `loss` and `accuracy`:
one chart, two lines. Tags such as `loss/train` and `loss/val` would be two charts. Of labels and numbers
`validation` has the task's score as well, `micro_f1` or `mae`, which training data are not measured by; numbers
have no accuracy. Everything else is of the run `train`.

Which epoch a stage kept is written when the stage is over: as the scalar `best_epoch`, counted as the charts
count, beside its figures `best/...`; as the text `ending`, in words; and, of the last stage, in the table of
hyperparameters.

Invariants: what an epoch gave is in the files when the epoch is over, so that a running TensorBoard shows it and a
killed process keeps it. Steps go on from the first stage of `staged` to the second. A folder that holds a run is
not added to, since TensorBoard would draw both as one line: the next one goes to `DIR/2`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.graph import NativePart
from headstart.models import Model
from headstart.training.history import History, Record
from headstart.training.observers import About, Observer
from headstart.training.settings import checked_folder
from headstart.training.stage import EpochEnd, Stage

NEEDS = "tensorboardX"
BINS = 30  # as many as TensorBoard shows
Params = Mapping[str, np.ndarray]


def require_writer() -> None:
    """SettingError where the library is missing that writes the files."""
    if find_spec(NEEDS) is None:
        raise SettingError(
            f"tensorboard= needs {NEEDS}, which is not installed: pip install 'headstart[tensorboard]'"
        )


class Board:
    """Writes one run. A context manager: leaving it closes the files."""

    def __init__(self, folder: str | Path, validation: bool) -> None:
        """SettingError where the library is missing or the folder cannot be written."""
        require_writer()
        self.folder = _unused(checked_folder("tensorboard", folder))
        self._x = {name: import_module(f"{NEEDS}.{name}") for name in ("summary", "event_file_writer")}
        self._pb = {
            name: import_module(f"{NEEDS}.proto.{name}_pb2")
            for name in ("event", "graph", "node_def", "attr_value", "tensor_shape")
        }
        self._files: dict[str, Any] = {}
        for run in ("train", "validation") if validation else ("train",):
            path = checked_folder("tensorboard", self.folder / run)
            self._files[run] = self._x["event_file_writer"].EventsWriter(str(path / "events"))
        self._first: dict[str, np.ndarray] = {}
        self._epochs, self._steps = 0, 0
        self._of_stage = 0
        """the number of the stage's last epoch"""
        self._about: Mapping[str, Any] = {}
        self._results: dict[str, float] = {}

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk, of which has been warned; what was trained stays
                file.close()

    def picture(self, model: Model, cut: str | None) -> None:
        """The model as TensorBoard's graph, trunk and head apart."""
        self._event("train", graph_def=self._graph(model, cut).SerializeToString())
        self._flush()

    def start(self, params: Params, about: Mapping[str, Any]) -> None:
        """Before a stage is trained, with what it begins from, and settings for a table."""
        rows = [f"| {name} | {json.dumps(value)} |" for name, value in about.items()]
        table = "\n".join(["| setting | value |", "|---|---|", *rows])
        self._summary("train", self._x["summary"].text("settings", table), self._epochs)
        self._of_stage, self._about = 0, about
        new = {name: value for name, value in params.items() if name not in self._first}
        self._first |= new
        self._histograms("parameters", new)
        self._flush()

    def epoch(self, record: Record, rates: np.ndarray, params: Params, auxiliary: tuple[str, ...]) -> None:
        """After an epoch with these learning rates, one a step, that ended with these parameters. `auxiliary`: the
        names of the outputs whose losses are recorded apart."""
        before = max(0, record.epoch - 1 - self._of_stage)  # a stage that goes on: epochs that another board has
        self._epochs += before + 1
        self._steps += before * len(rates)
        self._of_stage = record.epoch
        figures: dict[str, Any] = {"loss": record.loss}
        if record.accuracy is not None:
            figures["accuracy"] = record.accuracy
        for name, loss in zip(auxiliary, record.auxiliary_losses, strict=True):
            figures[f"auxiliary_loss/{name}"] = loss
        figures |= {"learning_rate": record.learning_rate}
        figures |= {f"seconds/{phase}": value for phase, value in record.seconds.as_dict().items()}
        for tag, value in figures.items():
            self._scalar("train", tag, value, self._epochs)
        if record.val_loss is not None:
            self._scalar("validation", "loss", record.val_loss, self._epochs)
        for name, score in {"accuracy": record.val_accuracy, record.score: record.val_score}.items():
            if score is not None:
                self._scalar("validation", name, score, self._epochs)
        for loss, rate in zip(record.step_losses, rates.tolist(), strict=True):
            self._steps += 1
            self._scalar("train", "step/loss", loss, self._steps)
            self._scalar("train", "step/learning_rate", rate, self._steps)
        self._histograms("parameters", params)
        with np.errstate(invalid="ignore", over="ignore"):
            changes = {name: _numbers(value) - _numbers(self._first[name]) for name, value in params.items()}
        self._histograms("change", changes)
        self._flush()

    def done(self, history: History, ending: str) -> None:
        """After a stage. `ending`: how it ended, in words."""
        best = history.best
        step = self._epochs - len(history) + best.epoch
        figures = {"loss": best.loss, "val_loss": best.val_loss, f"val_{best.score}": best.val_score}
        scalars = {f"best/{name}": value for name, value in figures.items() if value is not None}
        self._results = {"best_epoch": step, **scalars}
        for tag, value in self._results.items():
            self._scalar("train", tag, value, step)
        self._summary("train", self._x["summary"].text("ending", ending), self._epochs)
        self._flush()

    def compared(self) -> None:
        """After the last stage: a line for the table of hyperparameters, with what was kept."""
        if self._results:
            for summary in self._x["summary"].hparams(_plain(self._about), self._results):
                self._summary("train", summary, self._epochs)
            self._flush()

    def _histograms(self, kind: str, arrays: Params) -> None:
        for name, array in arrays.items():
            values = _numbers(array)
            values = values[np.isfinite(values)]
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            counts, limits = [values.size], [high]
            if low < high:
                histogram, edges = np.histogram(values, BINS)
                counts, limits = histogram.tolist(), edges[1:].tolist()
            tag = f"{kind}/{name}"
            sums = float(values.sum()), float(values @ values)
            self._summary(
                "train",
                self._x["summary"].histogram_raw(tag, low, high, values.size, *sums, limits, counts),
                self._epochs,
            )

    def _scalar(self, run: str, tag: str, value: Any, step: int) -> None:
        self._summary(run, self._x["summary"].scalar(tag, value), step)

    def _summary(self, run: str, summary: Any, step: int) -> None:
        self._event(run, summary=summary, step=step)

    def _event(self, run: str, **content: Any) -> None:
        event = self._pb["event"].Event(wall_time=time.time(), **content)
        self._files[run].write_event(event)

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def _graph(self, model: Model, cut: str | None) -> Any:
        """The model as a TensorFlow graph that nobody runs: names with scopes, ops, shapes and counts. With a cut
        all nodes lie in the scope `trunk` or `head`, also their device, by which TensorBoard can colour them."""
        graph, shapes = model.graph, model.graph.shapes(model.input_shape)
        macs = graph.macs(model.input_shape)
        trunk_nodes = {node.name for node in graph.upto(cut).nodes} if cut is not None else set()

        def part(name: str) -> str:
            return "" if cut is None else "trunk" if name in trunk_nodes else "head"

        def scoped(name: str) -> str:
            return f"{part(name)}/{name}".lstrip("/").replace(".", "/")

        attr, shape = self._pb["attr_value"].AttrValue, self._pb["tensor_shape"].TensorShapeProto
        nodes = []
        for node in graph.nodes:
            sides = [shape.Dim(size=side) for side in (-1, *shapes[node.name])]
            count = sum(int(np.prod(sizes)) for sizes in node.param_shapes().values())
            attrs = {
                "_output_shapes": attr(list=attr.ListValue(shape=[shape(dim=sides)])),
                "parameters": attr(i=count),
                "multiply_adds": attr(i=macs[node.name]),
            }
            for name, value in node.changed().items():
                if not isinstance(value, NativePart):
                    attrs[name] = attr(s=json.dumps(value).encode())
            nodes.append(
                self._pb["node_def"].NodeDef(
                    name=scoped(node.name),
                    op=node.op,
                    input=[scoped(name) for name in node.inputs],
                    device=part(node.name) or "trained",
                    attr=attrs,
                )
            )
        return self._pb["graph"].GraphDef(node=nodes)


class TensorBoard(Observer):
    """Writes what a training is and does to a board."""

    def __init__(self, folder: str | Path, validation: bool) -> None:
        """As `Board`."""
        self.board = Board(folder, validation)

    @property
    def output(self) -> str:
        return f"TensorBoard's files in {self.board.folder}"

    def start(self, model: Model, cut: str | None) -> None:
        self.board.picture(model, cut)

    def stage(self, stage: Stage, about: About) -> None:
        self.board.start(stage.params, about)

    def epoch(self, end: EpochEnd) -> None:
        self.board.epoch(end.record, end.rates, end.params, end.stage.graph.outputs[1:])

    def done(self, stage: Stage, history: History) -> None:
        self.board.done(history, stage.ending(history).words)

    def end(self, error: BaseException | None) -> None:
        if error is None:
            self.board.compared()
        self.board.close()


def _numbers(array: np.ndarray) -> np.ndarray:
    """float64 `(n,)`"""
    return np.asarray(array).astype(np.float64).reshape(-1)


def _plain(settings: Mapping[str, Any], before: str = "") -> dict[str, bool | float | str]:
    """Numbers, names and switches by their paths, "optimizer.head.lr"; a table has no place for anything else."""
    flat: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _plain(value, f"{before}{name}.")
        elif isinstance(value, bool | int | float | str):
            flat[f"{before}{name}"] = value
    return flat


def _unused(folder: Path) -> Path:
    """The folder, or the first of `2`, `3`, ... in it that holds no run yet."""
    path, number = folder, 1
    while any(path.glob("train/events.out.tfevents.*")):
        number += 1
        path = folder / str(number)
    return path
