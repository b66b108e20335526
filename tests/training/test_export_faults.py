"""What exporters get wrong, planted one by one: verification catches each, and no file is left.

The faults are put where they come from: into the network that is written down, into the file's graph, or into what
it says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from exporting import small_model, validation

import headstart as hs
from headstart.errors import ExportError, ExportMismatchError
from headstart.graph import Graph
from headstart.models import Model
from headstart.models.exporting import onnx_model as writer
from headstart.training.exporting import verify
from headstart.training.exporting.request import Request
from headstart.training.exporting.samples import probes
from headstart.training.metrics import softmax

pytestmark = pytest.mark.of("torch")
pytest.importorskip("onnxruntime")


def params(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Model], Model]:
    return lambda model: replace(model, params={**model.params, name: change(model.params[name])})


def node(name: str, **changes: Any) -> Callable[[Model], Model]:
    """Other attributes; with `op=` another op, with these attributes alone."""

    def changed(model: Model) -> Model:
        op = changes.get("op", model.graph[name].op)
        rest = {key: value for key, value in changes.items() if key != "op"}
        attrs = rest if "op" in changes else {**model.graph[name].attrs, **rest}
        nodes = (replace(n, op=op, attrs=attrs) if n.name == name else n for n in model.graph.nodes)
        return replace(model, graph=Graph(tuple(nodes), model.graph.output))

    return changed


def pixels(**changes: Any) -> Callable[[Model], Model]:
    """How the graph normalises; its metadata say what is right."""
    return lambda model: replace(model, preprocess=replace(model.preprocess, **changes))


NETWORK: Mapping[str, Callable[[Model], Model]] = {
    "a transposed kernel": params("conv1.weight", lambda w: w.swapaxes(2, 3)),
    "a kernel turned round": params("conv1.weight", lambda w: w[..., ::-1, ::-1]),
    "a kernel's inputs in another order": params("conv3.weight", lambda w: w[:, ::-1]),
    "a bias dropped": params("fc.bias", np.zeros_like),
    "weights of eight bits": params("conv2.weight", lambda w: w.astype(ml_dtypes.bfloat16).astype(np.float32)),
    "epsilon of a batch norm": node("bn1", epsilon=1e-5),
    "epsilon of a layer norm": node("norm", epsilon=1e-5),
    "variance and mean exchanged": lambda model: replace(
        model, params={**model.params, "bn1.running_mean": model.params["bn1.running_var"]}
    ),
    "padding off by one": node("conv1", padding=((0, 2), (0, 2))),
    "padding of a pool off by one": node("pool1", padding=((2, 0), (2, 0))),
    "relu6 as relu": node("act1", op="relu"),
    "relu left out": node("act2", op="dropout", rate=0.5),
    "an average that counts padding": node("pool2", count_padding=True),
    "a maximum that is an average": lambda model: replace(
        model,
        graph=Graph(tuple(replace(n, op="avg_pool") if n.name == "pool1" else n for n in model.graph.nodes), "fc"),
    ),
    "BGR": pixels(channels="bgr"),
    "missing normalisation": pixels(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "the deviations of other channels": pixels(std=(0.3, 0.25, 0.2)),
    "pixels of another scale": pixels(scale=1 / 256),
}


def softmax_over_the_batch(proto: Any) -> None:
    (softmax,) = (node for node in proto.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 0


def exchanged_outputs(proto: Any) -> None:
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {"logits": "probabilities", "probabilities": "logits"}.get(name, name)


def batch_of_one(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def no_such_op(proto: Any) -> None:
    proto.graph.node[0].op_type = "Imagine"


def output_left_out(number: int) -> Callable[[Any], None]:
    def change(proto: Any) -> None:
        del proto.graph.output[number]

    return change


def an_output_more(proto: Any) -> None:
    import onnx

    proto.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["more"]))
    added = proto.graph.output.add()
    added.CopyFrom(proto.graph.output[0])
    added.name = "more"


GRAPH: Mapping[str, tuple[Callable[[Any], None], str]] = {
    "softmax over the batch": (softmax_over_the_batch, "at batch 1 gives probabilities that differ"),
    "outputs exchanged": (exchanged_outputs, "at batch 1 gives"),
    "a batch of one": (batch_of_one, "its input is images, uint8 (1, 24, 24, 3)"),
    "no such op": (no_such_op, "cannot be opened"),
    "no logits": (output_left_out(0), "its outputs are probabilities"),
    "no probabilities": (output_left_out(1), "its outputs are logits"),
    "an output more": (an_output_more, "its outputs are logits, probabilities, more"),
}
"""and what is said of it"""


def said(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def changed(proto: Any) -> None:
        value = json.loads(writer.metadata(proto)[name])
        writer.set_metadata(proto, {name: json.dumps(change(value))})

    return changed


def not_said(proto: Any) -> None:
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "preprocess")
    proto.metadata_props.remove(entry)


SAYS: Mapping[str, Callable[[Any], None]] = {
    "classes reordered": said("classes", lambda names: names[::-1]),
    "another crop": said("preprocess", lambda settings: {**settings, "resize": 24}),
    "another filter": said("preprocess", lambda settings: {**settings, "interpolation": "nearest"}),
    "weights of another model": lambda proto: writer.set_metadata(proto, {"weights_digest": "0" * 32}),
    "another cut": lambda proto: writer.set_metadata(proto, {"cut": "act1"}),
    "another task": lambda proto: writer.set_metadata(proto, {"task": "multi", "threshold": "0.5"}),
    "no preprocessing": not_said,
    "no JSON": lambda proto: writer.set_metadata(proto, {"preprocess": "{"}),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


def refused(
    model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., Any], **settings: Any
) -> str:
    """What is said where `plant(writer, model, **settings)` makes the file. The folder is as empty as it was."""
    monkeypatch.setattr(writer, "onnx_model", lambda m, **about: plant(real, m, **about))
    settings = {"data": validation(), "backend": "torch", "device": "cpu"} | settings
    with pytest.raises(ExportMismatchError) as caught:
        hs.export(model, folder / "out.onnx", **settings)
    assert isinstance(caught.value, ExportError)
    assert "\n" not in str(caught.value) and "out.onnx: was not kept" in str(caught.value)
    assert not list(folder.iterdir())
    return str(caught.value)


real = writer.onnx_model


class Runs:
    """An opened export that gives what `change(outputs, rows)` makes of the model's own outputs."""

    def __init__(self, model: Model, change: Callable[..., Any]) -> None:
        self.outputs: tuple[str, ...] = ("logits", "probabilities")
        self.preprocess, self.classes = model.preprocess, model.classes
        self.task, self.threshold = model.task, model.threshold
        self.texts: Mapping[str, str] = {}
        self._model, self._change = model, change

    def run(self, rows: Any) -> dict[str, np.ndarray]:
        logits = hs.predict(self._model, self._model.preprocess.normalise(rows), backend="torch", device="cpu")
        return self._change({"logits": logits, "probabilities": softmax(logits)}, rows) or {}


def only_of_one(outputs: Any, rows: Any) -> Any:
    if len(rows) > 1:
        raise RuntimeError("Got invalid dimensions for input:\n index: 0 Got: 2 Expected: 1")
    return outputs


RUN: Mapping[str, tuple[Callable[..., Any], str]] = {
    "a batch of one": (
        only_of_one,
        "at batch 2 cannot be run (RuntimeError: Got invalid dimensions for input: in",
    ),
    "a mean over the batch": (
        lambda outputs, rows: {name: 0 * values + values.mean(0) for name, values in outputs.items()},
        "at batch 2 gives logits that differ",
    ),
    "a batch turned round": (
        lambda outputs, rows: {name: values[::-1] for name, values in outputs.items()},
        "at batch 2 gives logits that differ",
    ),
    "wrong from the third sample on": (
        lambda outputs, rows: {
            name: values * (np.arange(len(rows)) < 2)[:, None] for name, values in outputs.items()
        },
        "at batch 7 gives logits that differ",
    ),
    "an axis more": (
        lambda outputs, rows: {name: values[:, None] for name, values in outputs.items()},
        "at batch 1 gives logits (1, 1, 4); expected (1, 4)",
    ),
    "one class": (
        lambda outputs, rows: {name: values[:, :1] for name, values in outputs.items()},
        "at batch 1 gives logits (1, 1); expected (1, 4)",
    ),
    "no number": (
        lambda outputs, rows: {**outputs, "probabilities": outputs["probabilities"] * np.nan},
        "at batch 1 gives probabilities that differ from the run's by nan",
    ),
    "a bit too much": (
        lambda outputs, rows: {**outputs, "logits": outputs["logits"] * 1.003},
        "at batch 1 gives logits that differ",
    ),
}
"""of what runs it, whatever the format, and what is said of it"""


@pytest.mark.parametrize("fault", RUN)
def test_what_runs_it_is_wrong(fault: str, model: Model) -> None:
    change, text = RUN[fault]
    with pytest.raises(ExportMismatchError) as caught:
        held(Runs(model, change))
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_another_answer_whose_numbers_are_near(model: Model) -> None:
    """Of a model that is sure of nothing all probabilities are nearly alike, and yet the first class is first."""
    unsure = params("fc.weight", lambda w: 1e-6 * w)(
        params("fc.bias", lambda b: np.float32([2e-3, 0, 0, 0]))(model)
    )
    opened = Runs(unsure, lambda outputs, rows: {**outputs, "probabilities": outputs["probabilities"][:, ::-1]})
    with pytest.raises(ExportMismatchError, match="another answer than the run for 12 of 12 given samples"):
        held(opened)


def test_outputs_that_lack_or_are_too_many(model: Model) -> None:
    opened = Runs(model, lambda outputs, rows: outputs)
    assert held(opened).largest < 1e-6
    for names in (("logits",), ("probabilities",), ("logits", "probabilities", "features")):
        opened.outputs = names
        with pytest.raises(ExportMismatchError, match="expected logits, probabilities"):
            held(opened)


def held(opened: Any) -> Any:
    model = opened._model
    request = Request(model, "whole", "pool2", backend="torch")
    return verify.held_to_the_model(opened, "out", request, probes(request, validation(), None), "cpu")


def wrong_network(change: Callable[[Model], Model]) -> Callable[..., Any]:
    """Which says that it is the right one."""

    def plant(write: Any, model: Model, **about: Any) -> Any:
        proto = write(change(model), **about)
        writer.set_metadata(proto, writer.metadata(write(model, **about)))
        return proto

    return plant


def wrong_file(change: Callable[[Any], None]) -> Callable[..., Any]:
    def plant(write: Any, model: Model, **about: Any) -> Any:
        proto = write(model, **about)
        change(proto)
        return proto

    return plant


def test_without_a_fault_it_is_kept(model: Model, tmp_path: Path) -> None:
    """So that what is refused below is refused for its fault."""
    exported = hs.export(model, tmp_path / "out.onnx", validation(), backend="torch", device="cpu")
    assert exported.verification is not None and exported.verification.largest < 1e-5


@pytest.mark.parametrize("fault", NETWORK)
def test_a_wrong_network(fault: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "differ from the run's by" in refused(model, tmp_path, monkeypatch, wrong_network(NETWORK[fault]))


@pytest.mark.parametrize("fault", NETWORK)
def test_a_wrong_network_shows_on_pictures_that_are_drawn(
    fault: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(model, tmp_path, monkeypatch, wrong_network(NETWORK[fault]), data=None)


def test_small_features_are_no_zeros(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep network with fresh weights has features of 1e-8. Those that are all zero are right, too."""
    small = params("conv3.weight", lambda w: 1e-9 * w)(model)
    wrong = wrong_network(params("conv3.weight", lambda w: 1.1 * w))
    asked: dict[str, Any] = {"part": "trunk", "backend": "torch", "device": "cpu"}
    zero = params("conv3.weight", lambda w: 0 * w)(model)
    assert hs.export(zero, tmp_path / "zero.onnx", validation(), **asked).verification.largest == 0  # type: ignore[union-attr]
    (tmp_path / "zero.onnx").unlink()
    refused(small, tmp_path, monkeypatch, wrong, cut="mean", part="trunk")


@pytest.mark.parametrize("fault", GRAPH)
def test_a_wrong_graph(fault: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, text = GRAPH[fault]
    assert text in refused(model, tmp_path, monkeypatch, wrong_file(change))


@pytest.mark.parametrize("fault", SAYS)
def test_it_says_something_else_of_itself(
    fault: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(model, tmp_path, monkeypatch, wrong_file(SAYS[fault]))


@pytest.mark.parametrize("fault", ["another crop", "another filter"])
def test_photographs_show_another_preprocessing(
    fault: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the numbers alone, whatever is compared of what files say."""
    monkeypatch.setattr(verify, "check_description", lambda *about: None)
    assert "differ from the run's by" in refused(model, tmp_path, monkeypatch, wrong_file(SAYS[fault]))
