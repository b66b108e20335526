"""ONNX files in onnxruntime: ours beside the one that torch's own exporter makes of the same network, in turn.

One thread, and its CPU time, so that the figures hold on a machine that others use, too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from sizes import sized
from table import table

import headstart as hs
from headstart.models import architecture
from headstart.models.exporting.onnx_model import onnx_bytes, onnx_model
from headstart.models.layouts import published
from headstart.testing import relative_error

pytest.importorskip("onnxscript", reason="torch's exporter needs it")
BATCH, ROUNDS, CLASSES = 8, sized(5, 9), 10
NETWORKS = {"resnet50": torchvision.models.get_model, "vit_small_patch16_224": timm.create_model}
"""model -> what makes torch's network of it"""


def session(file: bytes | Path) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def torchs(model: hs.Model, path: Path) -> Path:
    """The file of torch's exporter, of the network with the model's parameters."""
    network = NETWORKS[model.name](model.name, num_classes=CLASSES).eval()
    library = "timm" if NETWORKS[model.name] is timm.create_model else "torchvision"
    names = next(layout for layout in architecture(model.name).layouts if layout.name == library)
    state = published(model.graph, model.params, names)
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()}, strict=False)
    pixels = torch.zeros(2, 3, *model.input_shape[:2])
    batch = ({0: torch.export.Dim("n")},)
    torch.onnx.export(network, (pixels,), dynamo=True, dynamic_shapes=batch, verbose=False).save(path)
    return path


def run(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds of this thread, and the first output."""
    start = time.thread_time()
    output = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return time.thread_time() - start, output


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime(benchmark: Any, name: str, tmp_path: Path) -> None:
    model = hs.model(name, classes=CLASSES)
    ours = session(onnx_bytes(onnx_model(model, pixels=False)))
    theirs = session(torchs(model, tmp_path / "torch.onnx"))
    pixels = np.random.default_rng(0).standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    outputs = {}

    def one(which: str) -> None:
        taken, outputs[which] = run(ours if which == "ours" else theirs, pixels)
        seconds[which].append(taken)

    benchmark.group = f"{BATCH} images of 224 px through {name} in onnxruntime, one thread"
    benchmark.pedantic(one, args=("ours",), setup=lambda: one("theirs"), rounds=ROUNDS, warmup_rounds=1)
    assert relative_error(outputs["ours"], outputs["theirs"]) < 1e-4
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    medians = {which: float(np.median(taken[1:])) for which, taken in seconds.items()}
    facts = {
        "device": "cpu",
        "threads": 1,
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }
    table.record(
        f"onnxruntime, {BATCH} images of 224 px",
        f"{name}, float32",
        medians["ours"],
        peer="the file of torch's exporter",
        peers=medians["theirs"],
        target="exported",
        facts=facts,
    )
    ratio = medians["theirs"] / medians["ours"]
    benchmark.extra_info.update(facts, times_as_fast_as_the_peer=ratio, cpu_seconds=medians)
    print(f"\n{name}: {BATCH / medians['ours']:.1f} images/s of CPU time, {ratio:.2f}x as fast as torch's file")
    assert ratio >= 0.95, "slower than torch's own exporter's file"
