"""What the PyTorch backend does on a GPU, seen on a CUDA device that is not there: whether it is right, how many
operators it launches, how often the host waits, what crosses the bus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.features.inference import pixel_trunk
from headstart.graph import Builder
from headstart.models.initial import initial_params
from headstart.testing.samples import shaken, tiny_model

torch = pytest.importorskip("torch", reason="this environment has no torch")
import pretended  # noqa: E402
from conformance import Torch  # noqa: E402

from headstart.backends.torch.recorded import Recorder  # noqa: E402
from headstart.backends.torch.streaming import Streaming  # noqa: E402

pytestmark = [pytest.mark.of("torch")]
LAUNCHES = 60
F16 = np.dtype(np.float16)


@pytest.fixture(autouse=True, scope="module")
def _torch_is_left_as_it_was() -> Iterator[None]:
    """Later tests may have a real card, which `monkeypatch` would keep from them: it undoes what a test has set
    after the fixture `card` has put back what torch had."""
    before = {name: value for name, value in vars(torch.cuda).items() if not name.startswith("_")}
    yield
    assert [name for name, value in before.items() if getattr(torch.cuda, name) is not value] == []


@pytest.fixture
def card() -> Iterator[pretended.Card]:
    with pretended.cuda() as card:
        yield card


def trunk_of(place: Place, cuts: Sequence[str] = ("avgpool",), model: Any = None) -> Any:
    return pixel_trunk(model or shaken(tiny_model()), cuts, registry.load("torch"), place)


def pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def far(actual: np.ndarray, expected: np.ndarray) -> float:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (actual, expected))
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


@pytest.mark.parametrize(
    ("precision", "near"), [("float32", 1e-5), ("tf32", 1e-5), ("float16", 5e-3), ("bfloat16", 2e-2)]
)
def test_a_card_computes_what_a_cpu_does(card: pretended.Card, precision: str, near: float) -> None:
    x, cuts = pictures(4, 32), ["block", "avgpool"]
    there, here = trunk_of(Place("cuda", precision), cuts), trunk_of(Place("cpu", "float32"), cuts)
    numpy = registry.load("torch").numpy
    expected = here.run(x)
    outputs = there.run(x)
    streamed = list(there.stream([x] * 5, {"block": F16, "avgpool": np.dtype(np.float32)}))
    assert len(streamed) == 5
    for node in expected:
        assert far(numpy(outputs[node]), numpy(expected[node])) < near
        for rows in streamed:
            assert far(rows[node], numpy(expected[node])) < max(near, 1e-3)
    assert {rows["block"].dtype.name for rows in streamed} == {"float16"}
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
    trunk = trunk_of(Place("cuda", "bfloat16"), model=hs.model("resnet50", classes=10, size=32))
    x = pictures(2, 32)
    counted = Counted(card, 6, x)
    rows = list(trunk.stream(counted, {"avgpool": F16}))
    figures = counted.figures[4]
    assert sum(figures["operators"].values()) <= LAUNCHES, figures["operators"]
    assert figures["operators"]["cudnn_convolution_relu"] == 33
    assert figures["operators"]["cudnn_convolution_add_relu"] == 16
    assert sum(figures["waits"].values()) <= 1, figures["waits"]
    assert sum(figures["casts"].values()) == 1, figures["casts"]  # of the features
    assert figures["sent"] == {"torch.uint8": x.nbytes}
    assert figures["fetched"] == {"torch.float16": 2 * 2048 * 2, "torch.bfloat16": 2048 * 2}
    assert {outputs["avgpool"].dtype for outputs in rows} == {F16}


def test_a_recorded_batch_is_played_back(card: pretended.Card) -> None:
    trunk = trunk_of(Place("cuda", "bfloat16"))
    rng = np.random.default_rng(1)
    batches = [rng.integers(0, 256, (2, 32, 32, 3), np.uint8) for _ in range(6)]
    rows = [outputs["avgpool"] for outputs in trunk.stream(batches, {"avgpool": F16})]
    card.reset()
    again = [outputs["avgpool"] for outputs in trunk.stream(batches, {"avgpool": F16})]
    assert card.operators["replay"] == 6
    assert "cudnn_convolution_relu" not in card.operators
    for k in range(6):
        assert np.array_equal(rows[k], again[k])
        assert far(rows[k], registry.load("torch").numpy(trunk.run(batches[k])["avgpool"])) < 2e-3
    assert not np.array_equal(rows[0], rows[1])


def test_a_sum_of_two_convolutions_adds_both_biases(card: pretended.Card) -> None:
    b = Builder()
    x = b.add("relu0", "relu", b.conv("conv0", "input", 3, 16, 3, pad=1))
    y, side = b.conv("conv1", x, 16, 8, 3, pad=1, bias=True), b.conv("side", x, 16, 8, 1, bias=True)
    graph = b.graph(b.add("relu", "relu", b.add("add", "add", y, side)))
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in graph.param_shapes().items()}
    x = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
    backend, numpy = registry.load("torch"), registry.load("torch").numpy
    for outputs in (["relu"], ["relu", "side"]):  # what is wanted by itself has its own bias
        here, there = (backend.trunk(graph, params, outputs, Place(kind, "float32")) for kind in ("cpu", "cuda"))
        expected, results = here.run(x), there.run(x)
        for node in outputs:
            assert far(numpy(results[node]), numpy(expected[node])) < 1e-5
        layers = [call for _, call in there.faster.faster.calls if isinstance(call, torch.nn.Conv2d)]
        assert len(layers) == len(outputs) - 1


def test_an_average_without_its_padding_has_no_channels_last_gradient_on_a_card(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder()
    x = b.add("conv", "conv", "input", in_channels=3, out_channels=4, kernel=(1, 1), bias=True)
    padding = ((1, 1), (1, 1))
    x = b.add("pool", "avg_pool", x, kernel=(3, 3), stride=(1, 1), padding=padding, count_padding=False)
    graph = b.graph(b.linear("fc", b.add("mean", "global_avg_pool", x), 4, 3))
    recipe = Recipe(hs.SGD(), Softmax(), train_statistics=True, seed=0)
    trainer = registry.load("torch").trainer(graph, initial_params(graph, 0), recipe, Place("cuda", "float32"))
    pool, seen = torch.nn.functional.avg_pool2d, []

    def watched(x: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(x.stride()[1] != 1)
        return pool(x, *args)

    monkeypatch.setattr(torch.nn.functional, "avg_pool2d", watched)
    trainer.step(np.ones((2, 5, 4, 3), np.float32), np.zeros(2, np.int64), 0.1)
    assert seen == [True]


@pytest.mark.parametrize("shape", [(4, 3, 6), (5, 6), (6,)], ids=["maps", "tokens", "rows"])
@pytest.mark.parametrize(("precision", "calls"), [("bfloat16", 1), ("float16", 1), ("float32", 0)])
def test_a_product_and_its_gelu_are_one_call_where_an_approximation_is_not_seen(
    card: pretended.Card, shape: tuple[int, ...], precision: str, calls: int
) -> None:
    b = Builder()
    graph = b.graph(b.linear("out", b.add("gelu", "gelu", b.linear("fc", "input", 6, 16)), 16, 8))
    params = initial_params(graph, 0)
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    backend, results = registry.load("torch"), {}
    for place in (Place("cpu", "float32"), Place("cuda", precision)):
        trunk = backend.trunk(graph, params, ["out"], place)
        trunk.run(x)
        card.reset()
        results[place.kind] = backend.numpy(trunk.run(x)["out"])
    assert far(results["cuda"], results["cpu"]) < 2e-2
    assert card.operators["_addmm_activation"] == calls


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
    there, here = trunk_of(Place("cuda", "float32")), trunk_of(Place("cpu", "float32"))
    numpy, cut = registry.load("torch").numpy, "avgpool"
    assert far(numpy(there.run(x)[cut]), numpy(here.run(x)[cut])) < 1e-5
    assert ("NOT_SUPPORTED" if broken == "fails" else "off") in caplog.text


def test_a_long_stream_is_recorded_again_when_cudnn_has_tried_its_ways(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.backends.torch.streaming.TUNED_AFTER", 0.0)
    tried, record = [], pretended.recording

    def recording(graph: Any, **settings: Any) -> Any:
        tried.append(torch.backends.cudnn.benchmark)
        return record(graph, **settings)

    monkeypatch.setattr(pretended, "recording", recording)
    trunk = trunk_of(Place("cuda", "bfloat16"))
    rows = [outputs["avgpool"] for outputs in trunk.stream([pictures(2, 32)] * 6, {"avgpool": F16})]
    assert tried == [False, True]
    assert all(np.array_equal(rows[0], outputs) for outputs in rows[1:])
    assert torch.backends.cudnn.benchmark is False


def test_a_batch_that_cannot_be_recorded_is_computed_as_it_comes(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(graph: Any, **settings: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(pretended, "recording", refuse)
    trunk = trunk_of(Place("cuda", "bfloat16"))
    rows = list(trunk.stream([pictures(2, 32)] * 6, {"avgpool": F16}))
    assert len(rows) == 6
    assert "replay" not in card.operators
    assert caplog.text.count("not permitted") == 1


# ---- training


def head_of(kind: str) -> tuple[Any, dict[str, np.ndarray]]:
    b = Builder()
    x = "input"
    if kind == "block":
        x = b.add("bn", "batch_norm", b.conv("conv", x, 6, 8, 3, pad=1), channels=8)
        x = b.add("pool", "global_avg_pool", b.add("relu", "relu", x))
        x = b.add("drop", "dropout", x, rate=0.25)
    graph = b.graph(b.linear("fc", x, 8 if kind == "block" else 6, 3))
    return graph, initial_params(graph, 0)


def trained(kind: str, optimizer: Any, device: str, steps: int, epochs: int = 2) -> tuple[Any, list[Any]]:
    graph, params = head_of(kind)
    recipe = Recipe(optimizer, Softmax(0.1), train_statistics=True, seed=0)
    trainer = registry.load("torch").trainer(graph, params, recipe, Place(device, "float32"))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, 5, 5, 6) if kind == "block" else (64, 6)).astype(np.float16)
    labels, handle = rng.integers(0, 3, 64), trainer.put(rows)
    results = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).integers(0, 64, (steps, 8))
        results.append(trainer.epoch(handle, labels, order, np.linspace(0.05, 0.01, steps, dtype=np.float32)))
    return trainer, results


@pytest.mark.parametrize("optimizer", [hs.SGD(momentum=0.9), hs.AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["linear", "block"])
def test_recorded_steps_train_as_steps_do(card: pretended.Card, kind: str, optimizer: Any) -> None:
    here, expected = trained(kind, optimizer, "cpu", 20)
    there, results = trained(kind, optimizer, "cuda", 20)
    assert card.operators["replay"] >= 8
    for (losses, right), (theirs, count) in zip(expected, results, strict=True):
        np.testing.assert_allclose(theirs, losses, rtol=1e-4)
        assert right == count
    for name, value in here.params().items():
        np.testing.assert_allclose(there.params()[name], value, rtol=1e-4, atol=1e-5)


def test_epochs_of_one_step_leave_nothing_to_record_at_first(card: pretended.Card) -> None:
    expected, results = (trained("linear", hs.AdamW(), device, 1, epochs=3)[1] for device in ("cpu", "cuda"))
    assert card.operators["replay"], "later epochs are recorded all the same"
    for (losses, right), (theirs, count) in zip(expected, results, strict=True):
        np.testing.assert_allclose(theirs, losses, rtol=1e-4)
        assert right == count


def test_a_step_of_a_linear_head_is_few_launches_and_no_wait(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {}
    for steps in (10, 20):
        monkeypatch.setenv("HEADSTART_FUSED", "0")
        graph, params = head_of("linear")
        recipe = Recipe(hs.AdamW(), Softmax(), train_statistics=True, seed=0)
        trainer = registry.load("torch").trainer(graph, params, recipe, Place("cuda", "float32"))
        handle = trainer.put(np.ones((64, 6), np.float16))
        card.reset()
        trainer.epoch(
            handle, np.zeros(64, np.int64), np.zeros((steps, 8), np.int64), np.full(steps, 0.1, np.float32)
        )
        figures[steps] = sum(card.operators.values()), dict(card.waits), dict(card.operators)
    assert figures[20][0] - figures[10][0] <= 12 * 10, figures[20][2]
    assert figures[10][1] == figures[20][1]
    assert sum(figures[20][1].values()) <= 4, figures[20][1]  # at its end


def test_steps_that_come_out_wrong_when_recorded_are_not_recorded(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pretended.Recording, "replay", lambda self: None)
    _, results = trained("linear", hs.SGD(), "cuda", 20)
    _, expected = trained("linear", hs.SGD(), "cpu", 20)
    assert "not recorded" in caplog.text
    for (losses, _), (theirs, _) in zip(expected, results, strict=True):
        np.testing.assert_allclose(theirs, losses, rtol=1e-4)


@pytest.mark.parametrize("optimizer", [hs.SGD(momentum=0.9), hs.AdamW()], ids=["sgd", "adamw"])
def test_recorded_heads_train_as_heads_do(card: pretended.Card, optimizer: Any) -> None:
    graph, params = head_of("linear")
    chain = chain_of(graph)
    assert chain is not None
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((64, 6)).astype(np.float16), rng.integers(0, 3, 64)
    order, rates = rng.integers(0, 64, (20, 8)), np.linspace(1, 0.5, 20, dtype=np.float32)
    results = {}
    for device in ("cpu", "cuda"):
        recipe = HeadsRecipe(optimizer, np.float32([0.1, 0.01]), np.float32([0.0, 0.1]), Softmax(0.1))
        many = {name: np.stack([value, value * 2]) for name, value in params.items()}
        heads = registry.load("torch").heads(chain, many, recipe, Place(device, "float32"))
        handle = heads.put(rows)
        told = [heads.epoch(handle, labels, order, rates) for _ in range(2)]
        results[device] = told, heads.params()
    assert card.operators["replay"] >= 8
    for (losses, right), (theirs, count) in zip(results["cpu"][0], results["cuda"][0], strict=True):
        np.testing.assert_allclose(theirs, losses, rtol=1e-4)
        assert right.tolist() == count.tolist()
    for name, value in results["cpu"][1].items():
        np.testing.assert_allclose(results["cuda"][1][name], value, rtol=1e-4, atol=1e-6)


def test_what_a_users_module_writes_over_has_left_the_card_before(card: pretended.Card) -> None:
    device = torch.device("cuda:0")
    memory = torch.zeros(2, 3).to(device)

    def network(x: Any) -> dict[str, Any]:
        return {"fc": memory.copy_(x.float())}

    streaming = Streaming(network, network, Place("cuda", "float32"), device, steady=False)
    batches = [np.full((2, 3), k, np.float32) for k in range(5)]
    rows = [float(outputs["fc"][0, 0]) for outputs in streaming(batches, {"fc": np.dtype(np.float32)})]
    assert rows == [0, 1, 2, 3, 4]


def course_of(device: str, kind: str, optimizer: Any) -> list[Any]:
    """What two trainers on one device tell in turn, over epochs of several sizes and of rows as they lie, with
    steps, logits and parameters in between."""
    b = Builder()
    x = (
        b.linear("first", "input", 6, 8)
        if kind == "linear"
        else b.conv("first", "input", 6, 8, 3, pad=1, bias=True)
    )
    x = b.add("relu", "relu", x)
    if kind == "block":
        x = b.add("pool", "global_avg_pool", b.add("bn", "batch_norm", x, channels=8))
    graph = b.graph(b.linear("fc", x, 8, 3), auxiliary=((b.linear("aux", x, 8, 3), 0.3),))
    backend, rng = registry.load("torch"), np.random.default_rng(0)
    rates = {"first.weight": 0.0, "fc.weight": 0.5}
    recipe = Recipe(optimizer, Softmax(0.1), train_statistics=True, seed=0, rates=rates)
    trainers = [
        backend.trainer(graph, initial_params(graph, seed), recipe, Place(device, "float32")) for seed in (0, 1)
    ]
    rows = rng.standard_normal((64, 5, 5, 6) if kind == "block" else (64, 6)).astype(np.float16)
    labels, told = rng.integers(0, 3, 64), []
    handles = [trainer.put(rows) for trainer in trainers]
    for size in (8, 8, 6, None, 8):
        for trainer, handle in zip(trainers, handles, strict=True):
            order = None if size is None else rng.integers(0, 64, (6, size))
            shares = np.linspace(0.05, 0.0, 4 if size is None else 6, dtype=np.float32)
            told.append(trainer.epoch(handle, labels, order, shares)[0])
            told.append(trainer.logits(handle, 3, 9))
            told.append(trainer.step(rows[:5], labels[:5], 0.02)[0])
            told += (value for _, value in sorted(trainer.params().items()))
    return told


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        pytest.param("linear", hs.SGD(weight_decay=0.1), id="linear-sgd"),
        pytest.param("linear", hs.AdamW(weight_decay=0.1), id="linear-adamw", marks=pytest.mark.slow),
        pytest.param("block", hs.SGD(weight_decay=0.1), id="block-sgd", marks=pytest.mark.slow),
        pytest.param("block", hs.AdamW(weight_decay=0.1), id="block-adamw", marks=pytest.mark.slow),
    ],
)  # test_recorded_steps_train_as_steps_do has them all
def test_recorded_steps_go_with_everything_else(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch, kind: str, optimizer: Any
) -> None:
    monkeypatch.setattr("headstart.backends.torch.recorded.STEPS", 4)  # of the longer of two recordings
    expected = course_of("cpu", kind, optimizer)
    card.reset()
    results = course_of("cuda", kind, optimizer)
    assert card.operators["replay"] >= 10
    for theirs, ours in zip(results, expected, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


def test_a_step_that_is_small_and_comes_out_wrong_is_not_recorded(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pretended.Recording, "replay", lambda self: None)
    graph, params = head_of("linear")
    recipe = Recipe(hs.SGD(momentum=0.0), Softmax(), train_statistics=True, seed=0)
    trainer = registry.load("torch").trainer(graph, params, recipe, Place("cuda", "float32"))
    rows = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    order, rates = np.arange(64).reshape(8, 8), np.full(8, 5e-4, np.float32)
    trainer.epoch(trainer.put(rows), np.arange(64) % 3, order, rates)
    assert "not recorded" in caplog.text
    assert any((value != params[name]).any() for name, value in trainer.params().items())


def test_a_trial_that_fails_half_way_changes_nothing(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, before: Any) -> None:
        monkeypatch.setattr(Recorder, "_put_back", put_back)
        raise RuntimeError("CUDA out of memory")

    put_back = Recorder._put_back
    monkeypatch.setattr(Recorder, "_put_back", fails)
    _, results = trained("linear", hs.AdamW(), "cuda", 20)
    assert card.operators["replay"] == 1, "the trial's"
    _, expected = trained("linear", hs.AdamW(), "cpu", 20)
    for (losses, _), (theirs, _) in zip(expected, results, strict=True):
        np.testing.assert_allclose(theirs, losses, rtol=1e-4)


def test_a_card_without_room_gives_back_what_it_recorded(
    card: pretended.Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches go on in halves; a recording of the whole ones would keep its memory."""
    x, dtypes = [pictures(8, 32) for _ in range(5)], {"avgpool": np.dtype(np.float32)}
    trunk = trunk_of(Place("cuda", "float32"))
    expected = [rows["avgpool"] for rows in trunk.stream(x, dtypes)]
    (recorded,) = trunk._inner._streaming.recordings
    compute = Streaming._compute

    def limited(self: Streaming, pixels: Any, types: Any) -> Any:
        if len(pixels) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(self, pixels, types)

    monkeypatch.setattr(Streaming, "_compute", limited)
    with pytest.warns(hs.errors.DeviceWarning, match="no room for 8 samples at once"):
        rows = [rows["avgpool"] for rows in trunk.stream(x, dtypes)]
    for actual, whole in zip(rows, expected, strict=True):
        assert far(actual, whole) < 1e-5
    assert recorded not in trunk._inner._streaming.recordings


def test_auto_asks_the_card(card: pretended.Card, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level("INFO", "headstart")
    data = hs.data.digits().subset(range(70))
    with monkeypatch.context() as driver:
        driver.setattr(torch.cuda, "mem_get_info", lambda *_: (8 << 20, 80 << 30))
        features = hs.extract(tiny_model(), data, backend="torch", device="cuda", batch_size="auto")
    assert features.stats.extracted == 70
    assert (
        "batch size 'auto': 32 samples at once on cuda, of about 96.0 KiB each, with 8.0 MiB free" in caplog.text
    )
