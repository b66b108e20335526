"""Torch modules that say that they give logits: their last layer is a classifier, however that is called."""

from __future__ import annotations

from typing import Any

import pytest
from own import P, X

import headstart as hs
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(("given", "classifies"), [("logits", True), ("image_embeds", False)])
def test_what_is_given_by_the_name_of_logits(looks: bool, given: str, classifies: bool) -> None:
    """As MPNet's classifier gives them, which ends in `classifier.out_proj`."""
    import torch
    from torch import nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.out_proj(torch.tanh(self.dense(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.classifier = nn.Conv2d(3, 8, 3), Head()

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:
                x = x * 2
            return {given: self.classifier(self.conv(x).mean((2, 3))), "loss": None}

    net = Net().eval()
    taken: list[Any] = []
    net.classifier.out_proj.register_forward_hook(lambda _m, args, value: taken.append((args[0], value)))
    model = hs.wrap(net, preprocess=P, head="linear", classes=2)
    taken.clear()
    net(torch.from_numpy(X).permute(0, 3, 1, 2))
    expected = taken[0][0 if classifies else 1].detach().numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
