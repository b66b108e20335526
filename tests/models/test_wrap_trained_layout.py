"""Users' own convolutional networks trained in PyTorch on a CPU: with their maps channels-last where that computes
the same, and as they lie where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import whole_training

import headstart as hs
from headstart.models import Model

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.of("torch")
SIZE, CLASSES, RATE = 20, tuple("abc"), 0.05
PREPROCESS = hs.Preprocess(SIZE, SIZE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGES = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(12) % 3


class Net(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = middle
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, x: Any) -> Any:
        x = self.middle(F.relu(self.conv1(x)))
        return self.fc(F.relu(self.bn(self.conv2(x))).mean((2, 3)))


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def viewed(_: Any, x: Any) -> Any:
    return x.view(-1).view(x.shape)


def viewed_in_training(module: Any, x: Any) -> Any:
    return x.view(-1).view(x.shape) if module.training else x


def laid_out(x: Any) -> Any:
    """The numbers in the order that they have in memory."""
    return torch.as_strided(x, x.shape, torch.empty(x.shape).stride())


def strided(_: Any, x: Any) -> Any:
    return laid_out(x)


def strided_in_training(module: Any, x: Any) -> Any:
    return laid_out(x) if module.training else x


class OwnWeight(nn.Module):
    """Its weight lies in memory as it needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3) / 10)

    def forward(self, x: Any) -> Any:
        weight = self.weight.view(8, -1).view(self.weight.shape)
        return F.conv2d(x, weight, padding=weight.shape[2] // 2)


class NormOfGradient(torch.autograd.Function):
    """Whose derivative alone looks at how numbers lie."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        return laid_out(gradient)


def own_derivative(_: Any, x: Any) -> Any:
    return NormOfGradient.apply(x)


def wrapped(middle: nn.Module) -> Model:
    torch.manual_seed(0)
    return hs.wrap(Net(middle), preprocess=PREPROCESS, classes=CLASSES)


def trainer_of(model: Model, statistics: bool = True) -> Any:
    return whole_training.trainer_of(model, "torch", hs.SGD(RATE, momentum=0.9), statistics)


def steps(trainer: Any, count: int = 4) -> list[float]:
    return [float(trainer.step(IMAGES, LABELS, RATE)[0].mean()) for _ in range(count)]


def by_hand(model: Model, middle: nn.Module, statistics: bool, count: int = 4) -> list[float]:
    """The same training from the same start, as PyTorch's users write it."""
    network = Net(middle).train()
    start = {name.partition(".")[2]: torch.tensor(np.array(value)) for name, value in model.params.items()}
    network.load_state_dict(start)
    if not statistics:
        network.bn.eval()
    optimizer = torch.optim.SGD(network.parameters(), RATE, 0.9)
    x = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) / 0.5
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), torch.from_numpy(LABELS))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("statistics", [True, False])
def test_maps_lie_as_convolutions_like_them(statistics: bool) -> None:
    model = wrapped(nn.Identity())
    trainer = trainer_of(model, statistics)
    losses = steps(trainer)
    assert trainer.network.keeps_layout
    assert all(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in trainer.network.parameters()
        if p.ndim == 4 and p.shape[1] > 1
    )
    np.testing.assert_allclose(losses, by_hand(model, nn.Identity(), statistics), rtol=1e-4)


@pytest.mark.parametrize(
    "middle",
    [
        *(lambda f=f: Function(f) for f in (viewed, viewed_in_training, strided, strided_in_training)),
        lambda: Function(own_derivative),
        OwnWeight,
    ],
    ids=["view", "view in training", "strides", "strides in training", "derivative", "weight"],
)
def test_code_that_knows_how_maps_lie_finds_them_so(middle: Any) -> None:
    trainer = trainer_of(wrapped(middle()))
    losses = steps(trainer)
    assert not trainer.network.keeps_layout and losses[-1] < losses[0]


def test_dropout_of_maps_draws_what_it_would() -> None:
    """Newer versions of PyTorch draw in the order of memory."""

    def drawn(maps: Any) -> Any:
        torch.manual_seed(0)
        return F.dropout(maps, 0.5)

    maps = torch.ones(2, 8, 4, 4)
    alike = torch.equal(drawn(maps), drawn(maps.contiguous(memory_format=torch.channels_last)))
    trainer = trainer_of(wrapped(Function(lambda module, x: F.dropout(x, 0.5, module.training))))
    losses = steps(trainer, 8)
    assert trainer.network.keeps_layout == alike and losses[-1] < losses[0]


def own_strided() -> nn.Module:
    layer = OwnWeight()
    layer.weight = nn.Parameter(torch.randn(8, 8, 1, 1) / 10)
    return layer


@pytest.mark.parametrize(
    ("middle", "last"),
    [
        (lambda: nn.Conv2d(8, 8, 1, 2), False),
        (own_strided, False),
        (lambda: nn.Conv2d(8, 8, 1), True),
        (lambda: nn.Conv2d(8, 8, 3, 2, 1), True),
    ],
    ids=["strided", "perhaps strided", "1 x 1", "3 x 3"],
)
def test_a_derivative_that_writes_beyond_its_memory_is_not_tried(middle: Any, last: bool) -> None:
    """torch 2.15 ends the process where maps are larger than these."""
    trainer = trainer_of(wrapped(middle()))
    steps(trainer, 1)
    assert trainer.network.keeps_layout == last


@pytest.mark.parametrize("middle", [nn.Identity, lambda: Function(strided)], ids=["channels-last", "as it lies"])
def test_a_training_goes_on_to_the_bit(middle: Any) -> None:
    model = wrapped(middle())
    first = trainer_of(model)
    steps(first, 2)
    state = first.state()
    again = trainer_of(model)
    again.load_state(state)
    assert steps(first, 2) == steps(again, 2)
    assert again.network.keeps_layout == first.network.keeps_layout


def test_nothing_is_drawn_or_kept_by_the_trial() -> None:
    """Not from the generators of who trains, and no statistics of batch norms."""
    trainer = trainer_of(wrapped(nn.Identity()))
    before = torch.get_rng_state(), trainer.state()
    trainer.network.train()
    trainer.layout.choose(IMAGES)
    assert trainer.network.keeps_layout and torch.equal(before[0], torch.get_rng_state())
    after = trainer.state()
    assert after.keys() == before[1].keys()
    assert all(np.array_equal(after[name], array) for name, array in before[1].items())


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_FUSED", "0")
    trainer = trainer_of(wrapped(nn.Identity()))
    steps(trainer, 1)
    assert not trainer.network.keeps_layout
