"""Trunks of users' own convolutional networks in PyTorch, on a CPU: by fewer calls, what their own compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.machine import cpu_multiplies
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.features.inference import pixel_trunk
from headstart.models import Model

torch = pytest.importorskip("torch")
from headstart.backends.torch import woven  # noqa: E402 - needs torch
from headstart.backends.torch.convolutions import found_in  # noqa: E402
from headstart.backends.torch.fused import available  # noqa: E402
from headstart.backends.torch.trace import Part  # noqa: E402

nn, F = torch.nn, torch.nn.functional
pytestmark = [
    pytest.mark.of("torch"),
    pytest.mark.skipif(not available(torch.float32), reason="this torch has no oneDNN"),
]
SIZE, CLASSES = 20, tuple("abc")
PREPROCESS = hs.Preprocess(SIZE, SIZE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Net(nn.Module):
    """A stem, what is tried, and a classifier."""

    def __init__(self, middle: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = middle
        self.fc = nn.Linear(channels, len(CLASSES))

    def forward(self, x: Any) -> Any:
        return self.fc(self.middle(self.stem(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, join: Callable[[Any, Any], Any] = lambda out, x: F.relu(out + x)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.join = nn.ReLU(inplace=True), join

    def forward(self, x: Any) -> Any:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.join(self.bn2(self.conv2(out)), x)


def added_in_place(out: Any, x: Any) -> Any:
    return F.relu(x.add_(out))


def looked_at_before(out: Any, x: Any) -> Any:
    twice = x * 2
    return twice + x.add_(out)


def taken_later(out: Any, x: Any) -> Any:
    return torch.cat([out + x, x], 1)[:, 4:12]


def rectified_in_place(out: Any, x: Any) -> Any:
    return torch.cat([F.relu_(out), out + x], 1)[:, :8]


def used_twice(out: Any, x: Any) -> Any:
    return F.relu(out) + out.sigmoid() * x


def broadcast(out: Any, x: Any) -> Any:
    return out + x.mean((2, 3), keepdim=True)


def with_alpha(out: Any, x: Any) -> Any:
    return torch.add(out, x, alpha=3)


class ChangedBetween(nn.Module):
    """The first convolution's input is another one by the time of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Any) -> Any:
        out = self.conv(x)
        F.relu_(x)
        return out + self.other(x)


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8))

    def forward(self, x: Any) -> Any:
        x = F.conv2d(x, self.weight, None, 1, padding=(2, 1), dilation=1, groups=2)
        x = F.batch_norm(x, self.mean, self.variance, self.scale, self.shift, False, 0.1, 1e-3)
        return torch.sigmoid(x)


class Scaled(nn.Conv2d):
    """With numbers as large as those at which the two kinds of gelu differ."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.weight.data *= 20


class StandardisedWeights(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PaddedByItsSize(nn.Conv2d):
    """Such that each stride has its output, as TensorFlow has it: more on the right and below."""

    def forward(self, x: Any) -> Any:
        pads = []
        for side, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads = [missing // 2, missing - missing // 2, *pads]
        return F.conv2d(F.pad(x, pads, value=self.around()), self.weight, self.bias, self.stride)

    def around(self) -> float:
        return 0.0


class PaddedWithOnes(PaddedByItsSize):
    def around(self) -> float:
        return 1.0


class CutOff(nn.Conv2d):
    """Loses its input's edges before zeros are around it, which is no smaller padding."""

    def forward(self, x: Any) -> Any:
        return F.conv2d(F.pad(x, (-1, -1, -1, -1)), self.weight, self.bias, padding=2)


class TakesMore(nn.Conv2d):
    """Looks at its input otherwise, too."""

    def forward(self, x: Any) -> Any:
        return super().forward(x - x.mean((1, 2, 3), keepdim=True))


class GivesMore(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class GivesATuple(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return (super().forward(x),)


class ScalesItself(nn.Module):
    """Writes to a number that only it has, in every run to the same one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.register_buffer("gain", torch.full((8, 1, 1, 1), 2.0))

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.weight * self.gain.clamp_(max=0.5))


class InFloat32(nn.Module):
    """A shortcut of float32 under autocast, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return x.float() + self.conv(x)


class NormThatActs(nn.BatchNorm2d):
    """As timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x: Any) -> Any:
        torch._assert(x.ndim == 4, "expected maps")
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return self.act(self.drop(x))


class DerivedNorm(nn.BatchNorm2d):
    """Runs as torch's does."""

    def _check_input_dim(self, input: Any) -> None:
        assert input.ndim == 4


class Viewed(nn.Module):
    """Refuses maps whose channels lie last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        return x.view(len(x), 8 * SIZE * SIZE)[:, : 8 * SIZE].view(len(x), 8, SIZE, 1)


class Looking(Net):
    """Looks at values, so that it has no graph."""

    def forward(self, x: Any) -> Any:
        x = super().forward(x)
        return x if float(x.abs().max()) >= 0 else -x


def sequence(*layers: Any) -> Any:
    return nn.Sequential(*layers)


FUSED: dict[str, Callable[[], Any]] = {
    "a block": Block,
    "a block, and another": lambda: sequence(Block(), nn.Identity(), nn.Dropout(0.3), Block()),
    "a sum written over the shortcut": lambda: Block(added_in_place),
    "that was looked at before": lambda: Block(looked_at_before),
    "a shortcut that is taken later": lambda: Block(taken_later),
    "rectified in place, and taken again": lambda: Block(rectified_in_place),
    "taken twice": lambda: Block(used_twice),
    "a sum of other shapes": lambda: Block(broadcast),
    "a sum with a factor": lambda: Block(with_alpha),
    "an input that changes": ChangedBetween,
    "functions": Functions,
    "norms that act": lambda: sequence(nn.Conv2d(8, 8, 3, bias=False), NormThatActs(8), nn.Conv2d(8, 8, 1)),
    "a norm derived from torch's": lambda: sequence(nn.Conv2d(8, 8, 3), DerivedNorm(8), nn.ReLU()),
    "each channel by itself": lambda: sequence(nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.BatchNorm2d(8), nn.ReLU6()),
    "gelu": lambda: sequence(nn.Conv2d(8, 8, 1), nn.GELU(), Scaled(8, 8, 1), nn.GELU("tanh")),
    "hard swish": lambda: sequence(nn.Conv2d(8, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3), nn.Hardswish(True)),
    "same padding": lambda: sequence(nn.Conv2d(8, 8, 3, padding="same"), nn.ReLU()),
    "padded by its size": lambda: sequence(PaddedByItsSize(8, 8, 4, 2), nn.BatchNorm2d(8), nn.ReLU6()),
    "padded with ones": lambda: sequence(PaddedWithOnes(8, 8, 4, 2), nn.BatchNorm2d(8)),
    "that takes more": lambda: sequence(TakesMore(8, 8, 3), nn.BatchNorm2d(8)),
    "that gives more": lambda: sequence(GivesMore(8, 8, 3), nn.BatchNorm2d(8)),
    "a norm of weights": lambda: sequence(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), nn.ReLU()),
    "a number that is written to": ScalesItself,
    "a sum in float32": InFloat32,
    "reflected": lambda: sequence(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
    "norms without statistics": lambda: sequence(nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()),
    "weights that are computed": lambda: sequence(StandardisedWeights(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
    "turned": lambda: sequence(nn.ConvTranspose2d(8, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU()),
}
PLAIN: dict[str, tuple[Callable[[], Any], str]] = {
    "a view of all of a map": (lambda: Net(Viewed()), "Network"),
    "no graph": (lambda: Looking(Block()), "_ChannelsLast"),
}


@pytest.fixture(autouse=True)
def weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def wrapped(module: Any, **options: Any) -> Model:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.data.copy_(torch.rand(tensor.shape) + 0.2)
    return hs.wrap(module.eval(), preprocess=PREPROCESS, classes=CLASSES, cut="middle", **options)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def features_of(model: Model, count: int = 19, precision: str = "float32") -> tuple[np.ndarray, Any]:
    """And the form by which they were computed."""
    backend = registry.load("torch")
    trunk = pixel_trunk(model, [model.default_cut], backend, Place("cpu", precision))
    made = backend.numpy(trunk.run(images(count))[model.default_cut])
    return made, next(iter(trunk._inner.faster._by_shape.values()), None)


def own(module: Any, count: int = 19) -> np.ndarray:
    x = torch.from_numpy(PREPROCESS.normalise(images(count))).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return np.asarray(module.middle(module.stem(x)).float().permute(0, 2, 3, 1))


def assert_same(features: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", FUSED)
def test_fewer_calls_compute_the_same(name: str) -> None:
    module = Net(FUSED[name]())
    features, form = features_of(wrapped(module))
    assert type(form).__name__ == "_Woven"
    assert_same(features, own(module))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", [*FUSED, *PLAIN])
def test_halves_are_as_near_as_autocast(name: str, precision: str) -> None:
    """By the same forms. Whatever batch a sample is in, its numbers are the same."""
    if not cpu_multiplies(precision):
        pytest.skip("this processor computes in float32 instead")
    make, expected = PLAIN.get(name, (lambda: Net(FUSED[name]()), "_Woven"))
    module = make()
    model = wrapped(module, **({"head": "linear"} if name in PLAIN else {}))
    features, form = features_of(model, precision=precision)
    assert type(form).__name__ == expected
    alone, _ = features_of(model, 1, precision)
    exact = own(module) if name in FUSED else own(module).mean((1, 2))
    with torch.autocast("cpu", getattr(torch, precision)):
        cast = own(module)
    cast = cast if name in FUSED else cast.mean((1, 2))
    assert np.linalg.norm(features - exact) <= 2 * np.linalg.norm(cast - exact) + 1e-3 * np.linalg.norm(exact)
    assert np.linalg.norm(features - exact) >= 1e-5 * np.linalg.norm(exact), "it is float32"
    np.testing.assert_allclose(alone[0], features[0], rtol=0.02, atol=0.01 * np.abs(exact).max())


@pytest.mark.parametrize(
    "name", ["same padding", "padded by its size", "weights that are computed", "a norm of weights"]
)
def test_convolutions_of_other_kinds_are_calls(name: str) -> None:
    _, form = features_of(wrapped(Net(FUSED[name]())))
    called = [node for node in woven_graph(form).nodes if node.op == "call_module"]
    assert all(str(node.target).startswith("headstart_call") for node in called) and len(called) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: PaddedByItsSize(8, 4, 4, 3),
        lambda: nn.Conv2d(8, 4, 4, padding="same", dilation=2),
        lambda: StandardisedWeights(8, 4, 3, 2, padding=(2, 1), groups=2),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3, bias=False)),
    ],
)
def test_a_layer_is_found_to_be_a_convolution(make: Callable[[], Any]) -> None:
    layer, x = make(), torch.randn(2, 8, 11, 9)
    with torch.no_grad():
        found = found_in(layer, x.shape)
        assert found is not None
        torch.testing.assert_close(found(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [CutOff, PaddedWithOnes, TakesMore, GivesMore, GivesATuple])
def test_a_layer_that_does_more_is_none(kind: type) -> None:
    """By itself: where torch.fx traces the layer's code nobody asks what it comes to."""
    with torch.no_grad():
        assert found_in(kind(8, 8, 4, stride=3), (2, 8, 11, 9)) is None


def test_another_size_is_looked_at_anew() -> None:
    """Pads, and which maps are of one shape, hang on it."""
    module = Net(sequence(PaddedByItsSize(8, 8, 4, 3), Block(broadcast)))
    model = wrapped(module)
    backend = registry.load("torch")
    trunk = pixel_trunk(model, [model.default_cut], backend, Place("cpu", "float32"))
    for side in (SIZE, SIZE + 1, 3):
        x = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), np.uint8)
        made = backend.numpy(trunk._inner.run(x)[model.default_cut])
        with torch.no_grad():
            given = torch.from_numpy((x / 127.5 - 1).astype(np.float32)).permute(0, 3, 1, 2)
            assert_same(made, np.asarray(module.middle(module.stem(given)).permute(0, 2, 3, 1)))


@pytest.mark.parametrize("name", PLAIN)
def test_what_cannot_be_done_otherwise_is_done_as_it_is(name: str) -> None:
    make, expected = PLAIN[name]
    module = make()
    features, form = features_of(wrapped(module, head="linear"))
    assert type(form).__name__ == expected
    assert_same(features, own(module).mean((1, 2)))  # which a fresh classifier takes


def test_a_block_is_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []
    tried = woven.tried_call
    monkeypatch.setattr(woven, "tried_call", lambda step, *more: steps.append(step) or tried(step, *more))
    _, form = features_of(wrapped(Net(Block())))
    assert not any("norm" in str(node.target) or "bn" in str(node.target) for node in woven_graph(form).nodes)
    assert [(step.other is not None, step.activation) for step in steps] == [
        (False, None),  # the stem, which the sum takes as well
        (False, "relu"),
        (True, "relu"),
    ]
    assert steps[-1].in_place  # over what the stem gave, which nobody takes after that


def test_norms_are_folded_in() -> None:
    for make in (FUSED["norms that act"], FUSED["a norm derived from torch's"], FUSED["functions"]):
        _, form = features_of(wrapped(Net(make())))
        targets = [str(node.target) for node in woven_graph(form).nodes if node.op.startswith("call")]
        assert [name.startswith("headstart_call") for name in targets] == [True] * len(targets)


def woven_graph(form: Any) -> Any:
    """Of the part that runs."""
    (part,) = form.woven.values()
    return part.graph


def test_what_is_written_over_is_seen_by_whoever_looks_again() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Any) -> Any:
            first = x * 1
            second = first.add_(self.conv(x))
            return second * first

    module = Again().eval()
    part = Part(module, {False: torch.fx.symbolic_trace(module).graph}).eval()
    x = torch.randn(4, 8, 5, 5)
    with torch.no_grad():
        made = woven.Woven(part, x, torch.float32).module(x)
        torch.testing.assert_close(made, module(x), rtol=1e-4, atol=1e-5)


def test_what_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Net(Block())
    model = wrapped(module)
    folded = woven.folded
    monkeypatch.setattr(woven, "folded", lambda layer, scale, shift: folded(layer, scale * 1.01, shift))
    features, form = features_of(model)
    assert type(form).__name__ == "_ChannelsLast"
    assert_same(features, own(module))


def test_parameters_stay_what_they_are() -> None:
    module = Net(Block())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model = wrapped(module)
    before |= {name: tensor.clone() for name, tensor in module.state_dict().items()}
    held = {name: value.copy() for name, value in model.params.items()}
    trunk = pixel_trunk(model, [model.default_cut], registry.load("torch"), Place("cpu", "float32"))
    trunk.run(images(19))
    for name, value in trunk.params().items():
        if name in held:
            np.testing.assert_array_equal(value, held[name])
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_few_images_are_not_worth_it() -> None:
    module = Net(Block())
    features, form = features_of(wrapped(module), count=2)
    assert form is None
    assert_same(features, own(module, 2))


def test_it_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_FUSED", "0")
    model = wrapped(Net(Block()))
    trunk = pixel_trunk(model, [model.default_cut], registry.load("torch"), Place("cpu", "float32"))
    assert trunk._inner.faster is None
