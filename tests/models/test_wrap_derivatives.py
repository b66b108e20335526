"""Users' modules whose code says itself what its derivatives are: trained, they learn what they learn in PyTorch's
own loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from whole_training import trainer_of

import headstart as hs

torch = pytest.importorskip("torch")
from torch.utils.checkpoint import checkpoint  # noqa: E402 - needs torch

nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.of("torch")
SIZE, CLASSES, RATE, STEPS = 12, tuple("abc"), 0.1, 3
PREPROCESS = hs.Preprocess(SIZE, SIZE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGES = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(6) % 3


class Swish(torch.autograd.Function):
    """As networks have it that save memory."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(x)
        return gradient * share * (1 + x * (1 - share))


class Apart(torch.autograd.Function):
    """With what it keeps in a function of its own."""

    @staticmethod
    def forward(x: Any) -> Any:
        return x.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        return gradient * (ctx.saved_tensors[0] > 0)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        return -gradient


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.round(8 * x) / 8

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        return gradient


class Scaled(nn.Module):
    """What comes back is scaled, as some do it."""

    def forward(self, x: Any) -> Any:
        x = x * 1
        if self.training and torch.is_grad_enabled():
            x.register_hook(lambda gradient: gradient * 3)
        return x


class Layer(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Checkpointed(nn.Module):
    """Its maps are computed again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return checkpoint(self.conv, x, use_reentrant=True) if self.training else self.conv(x)


class Net(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = middle
        self.features = nn.Linear(8, 8)
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, x: Any) -> Any:
        return self.fc(F.relu(self.features(self.middle(self.conv(x)).mean((2, 3)))))


class InItsForward(Net):
    """Without a submodule of its own for it."""

    def forward(self, x: Any) -> Any:
        return self.fc(F.relu(self.features(Swish.apply(self.conv(x)).mean((2, 3)))))


NETWORKS = {
    "swish": lambda: Net(Layer(Swish.apply)),
    "context apart": lambda: Net(Layer(Apart.apply)),
    "reversed gradient": lambda: Net(Layer(Reversed.apply)),
    "straight through": lambda: Net(Layer(Rounded.apply)),
    "hook": lambda: Net(Scaled()),
    "checkpoint": lambda: Net(Checkpointed()),
    "in its own forward": lambda: InItsForward(nn.Identity()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_before_them_is_trained(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    model = hs.wrap(network, preprocess=PREPROCESS, classes=CLASSES)
    trainer = trainer_of(model, "torch", hs.SGD(RATE, momentum=0))
    params = trainer.params()

    names = {key: key.partition(".")[2] for key in params}
    network.load_state_dict({names[key]: torch.tensor(np.array(value)) for key, value in params.items()})
    network.train()
    x = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    for _ in range(STEPS):
        trainer.step(IMAGES, LABELS, RATE)
        network.zero_grad()
        F.cross_entropy(network(x), torch.from_numpy(LABELS)).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= RATE * parameter.grad

    learned, theirs = trainer.params(), network.state_dict()
    for key, start in params.items():
        moved = theirs[names[key]].numpy() - start
        assert np.abs(moved).max() > 1e-7, f"PyTorch's own loop trains {key}"
        np.testing.assert_allclose(learned[key] - start, moved, rtol=1e-3, atol=1e-6, err_msg=key)
