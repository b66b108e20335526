"""What the PyTorch backend does on a GPU, seen on a CUDA device that is not there: whether it is right, how many
operators it launches, how often the host waits, what crosses the bus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.features.inference import pixel_trunk

torch = pytest.importorskip("torch", reason="this environment has no torch")
import pretended  # noqa: E402
from conformance import Torch  # noqa: E402

pytestmark = [pytest.mark.of("torch")]
LAUNCHES = 60
F16 = np.dtype(np.float16)


@pytest.fixture
def card() -> Iterator[pretended.Card]:
    with pretended.cuda() as card:
        yield card


def trunk_of(name: str, place: Place, cuts: list[str] | None = None, **settings: Any) -> Any:
    model = hs.model(name, classes=10, **settings)
    return pixel_trunk(model, cuts or [model.default_cut], registry.load("torch"), place), model


def pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def far(actual: np.ndarray, expected: np.ndarray) -> float:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (actual, expected))
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


@pytest.mark.parametrize(
    ("precision", "near"), [("float32", 1e-5), ("tf32", 1e-5), ("float16", 5e-3), ("bfloat16", 2e-2)]
)
def test_a_card_computes_what_a_cpu_does(card: pretended.Card, precision: str, near: float) -> None:
    x = pictures(4, 64)
    there, _ = trunk_of("resnet18", Place("cuda", precision), ["layer2.1", "avgpool"], size=64)
    here, _ = trunk_of("resnet18", Place("cpu", "float32"), ["layer2.1", "avgpool"], size=64)
    numpy = registry.load("torch").numpy
    expected = here.run(x)
    outputs = there.run(x)
    streamed = list(there.stream([x] * 5, {"layer2.1": F16, "avgpool": np.dtype(np.float32)}))
    assert len(streamed) == 5
    for node in expected:
        assert far(numpy(outputs[node]), numpy(expected[node])) < near
        for rows in streamed:
            assert far(rows[node], numpy(expected[node])) < max(near, 1e-3)
    assert {rows["layer2.1"].dtype.name for rows in streamed} == {"float16"}
    assert {rows["avgpool"].dtype.name for rows in streamed} == {"float32"}


class Counted:
    """The figures of each batch of a stream, from when it is asked for to when the next one is."""

    def __init__(self, card: pretended.Card, batches: int, x: np.ndarray) -> None:
        self.card, self.batches, self.x = card, batches, x
        self.figures: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        for _ in range(self.batches):
            self.card.reset()
            yield self.x
            self.figures.append({**vars(self.card)})


def test_a_batch_of_resnet50_is_few_launches_no_cast_of_a_parameter_and_one_wait(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.backends.torch.streaming.RECORDED_AT", 99)
    monkeypatch.setattr("headstart.backends.torch.kernels._seconds", lambda *_: 0.0)  # of two ways, the first
    trunk, model = trunk_of("resnet50", Place("cuda", "bfloat16"), size=32)
    x = pictures(2, 32)
    counted = Counted(card, 6, x)
    rows = list(trunk.stream(counted, {model.default_cut: F16}))
    figures = counted.figures[4]
    assert sum(figures["operators"].values()) <= LAUNCHES, figures["operators"]
    assert figures["operators"]["cudnn_convolution_relu"] == 33
    assert figures["operators"]["cudnn_convolution_add_relu"] == 16
    assert sum(figures["waits"].values()) <= 1, figures["waits"]
    assert sum(figures["casts"].values()) == 1, figures["casts"]  # of the features
    assert figures["sent"] == {"torch.uint8": x.nbytes}
    assert figures["fetched"] == {"torch.float16": 2 * 2048 * 2, "torch.bfloat16": 2048 * 2}
    assert {one[model.default_cut].dtype for one in rows} == {F16}


def test_a_recorded_batch_is_played_back(card: pretended.Card) -> None:
    trunk, model = trunk_of("resnet18", Place("cuda", "bfloat16"), size=32)
    rng = np.random.default_rng(1)
    batches = [rng.integers(0, 256, (2, 32, 32, 3), np.uint8) for _ in range(6)]
    rows = [one[model.default_cut] for one in trunk.stream(batches, {model.default_cut: F16})]
    card.reset()
    again = [one[model.default_cut] for one in trunk.stream(batches, {model.default_cut: F16})]
    assert card.operators["replay"] == 6
    assert "cudnn_convolution_relu" not in card.operators
    for k in range(6):
        assert np.array_equal(rows[k], again[k])
        assert far(rows[k], registry.load("torch").numpy(trunk.run(batches[k])[model.default_cut])) < 2e-3
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-12])
def test_what_the_stored_type_does_not_hold_comes_in_float32(card: pretended.Card, scale: float) -> None:
    Torch().test_a_stream_gives_what_runs_give(registry.load("torch"), Place("cuda", "float32"), scale)


@pytest.mark.parametrize("broken", ["fails", "wrong"])
def test_a_card_without_the_fused_calls_computes_layer_by_layer(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    def call(*args: Any) -> torch.Tensor:
        if broken == "fails":
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")
        return torch.conv2d(args[0], args[1], args[2], *args[3:]) * 2

    monkeypatch.setattr(torch, "cudnn_convolution_relu", call)
    x = pictures(3, 32)
    there, model = trunk_of("resnet18", Place("cuda", "float32"), size=32)
    here, _ = trunk_of("resnet18", Place("cpu", "float32"), size=32)
    numpy, cut = registry.load("torch").numpy, model.default_cut
    assert far(numpy(there.run(x)[cut]), numpy(here.run(x)[cut])) < 1e-5
    assert ("NOT_SUPPORTED" if broken == "fails" else "off") in caplog.text


def test_a_batch_that_cannot_be_recorded_is_computed_as_it_comes(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(graph: Any, **settings: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    trunk, model = trunk_of("resnet18", Place("cuda", "bfloat16"), size=32)
    rows = list(trunk.stream([pictures(2, 32)] * 6, {model.default_cut: F16}))
    assert len(rows) == 6
    assert "replay" not in card.operators
    assert caplog.text.count("not permitted") == 1
