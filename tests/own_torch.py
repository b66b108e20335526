"""Modules as users write them, in torch; `own_keras` and `own_jax` have the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CUT, EARLIER, INSIDE, UNKNOWN = "block", "bn", "block.conv", "blok"


class Block(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.leaky_relu(self.bn(self.conv(x)), self.slope)


class Small(nn.Module):
    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.bn = nn.BatchNorm2d(8)
        self.block = Block(slope)
        self.conv = nn.Conv2d(8, 12, 3, 2)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(torch.relu(self.bn(self.stem(x))))
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.fc(F.dropout(x, 0.3, self.training))


def seeded(seed: int) -> None:
    torch.manual_seed(seed)


def small(seed: int = 0, slope: float = 0.1) -> nn.Module:
    seeded(seed)
    module = Small(slope)
    for norm in (module.bn, module.block.bn):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
    return module.eval()


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def logits(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(nchw(x)).numpy()


def features(module: nn.Module, x: np.ndarray) -> np.ndarray:
    found: list[torch.Tensor] = []
    handle = module.get_submodule(CUT).register_forward_hook(lambda _m, _i, output: found.append(output))
    logits(module, x)
    handle.remove()
    return found[0].permute(0, 2, 3, 1).numpy()


def state(module: nn.Module) -> list[Any]:
    """All that wrapping and training must leave alone."""
    tensors = [(name, tensor.clone().numpy()) for name, tensor in module.state_dict().items()]
    flags = [(p.requires_grad, p.grad) for p in module.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in module.modules()]
    return [*tensors, flags, hooks, [sorted(vars(m)) for m in module.modules()], torch.get_rng_state().numpy()]


def nudge(module: nn.Module) -> None:
    """The smallest change that a weight of the trunk can have."""
    with torch.no_grad():
        weight = module.stem.weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))


class Noisy(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.01 * torch.randn_like(x))


class Company(Small):
    """Its samples are not alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


def restless() -> list[nn.Module]:
    unstable = Small()
    unstable.bn = nn.BatchNorm2d(8, track_running_stats=False)
    return [Noisy().eval(), Company().eval(), unstable.eval()]


def secret() -> nn.Module:
    """Its code is in no file, and cannot be traced."""
    code = """
class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) if x.sum() > -1e9 else x
"""
    scope: dict[str, Any] = {"nn": nn, "__name__": "hidden"}
    exec(code, scope)
    seeded(0)
    return scope["Hidden"]().eval()


class Text(nn.Module):
    """A small transformer, with a masked mean at its end."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.position = nn.Parameter(torch.randn(12, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, classes)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.embed(ids) + self.position, src_key_padding_mask=~mask)
        weight = mask.unsqueeze(-1).float()
        x = self.norm((x * weight).sum(1) / weight.sum(1))
        return self.fc(x)


TEXT_CUT = "norm"


def text(seed: int = 0) -> nn.Module:
    seeded(seed)
    return Text().eval()


def text_features(module: nn.Module, batch: dict[str, np.ndarray]) -> np.ndarray:
    found: list[torch.Tensor] = []
    handle = module.norm.register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad():
        module(**{name: torch.from_numpy(array) for name, array in batch.items()})
    handle.remove()
    return found[0].numpy()


MLP_END = "2"  # where a trunk ends that is the whole of it


def mlp(inputs: int, outputs: int, seed: int = 0) -> nn.Module:
    """For vectors; usable as a head."""
    seeded(seed)
    return nn.Sequential(nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, outputs)).eval()


class Named(nn.Module):
    """Takes one array, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp(6, 2)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.mlp(numbers)


def named() -> nn.Module:
    return Named().eval()


def init(seed: int) -> nn.Module:
    return small(seed)


# ---- modules with something about them


class Branching(nn.Module):
    """Its forward cannot be traced: it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.spare = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.norm(x + self.attention(x, x, x)[0])
        if x.sum() > 1e9:
            x = self.spare(x)
        return self.fc(x.mean(1))


class Fold(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x if x.sum() > 1e9 else x * 2


class Leaf(nn.Module):
    """One of its submodules cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.fold = Fold()
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(4, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.fold(self.conv(x)))
        return self.relu(self.last(x)).mean((2, 3))


class Nested(nn.Sequential):
    """Some of its submodules' submodules cannot be traced."""

    def __init__(self) -> None:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), Fold(), nn.Flatten(), nn.Linear(32, 10))
        super().__init__(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(Fold(), nn.BatchNorm2d(8))), pooled)


class View(nn.Module):
    """It relies on the memory layout that convolutions have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc(x.view(x.shape[0], -1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(torch.sigmoid(self.conv(x)).mean((2, 3)))


class Constants(nn.Module):
    """Numbers that are no parameters: a tensor by the way, one made in forward, a buffer in half precision."""

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.shift = torch.full((4, 1, 1), shift)
        self.register_buffer("scale", torch.full((4, 1, 1), 1.5, dtype=torch.bfloat16))
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x) * self.scale.float() * self.gain + self.shift + torch.tensor([0.5])
        return self.fc(torch.tanh(x).mean((2, 3)))


class Bag(nn.Module):
    """It takes a dict, and gives one."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 6), nn.LayerNorm(6)
        self.whole = whole

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        x = self.norm(self.embed(batch["ids"]))
        return {"tokens": x, "pooled": x.mean(1)} if self.whole else x


class Hugging(nn.Module):
    """As encoders of libraries are: many arguments, some of which are there only by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Embedding(20, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, return_dict: bool = True, **more: Any
    ) -> Any:
        x = self.norm(self.embed(input_ids))
        if attention_mask is not None:
            x = x * attention_mask.unsqueeze(-1).float()
        x = self.fc(x)
        return {"last_hidden_state": x} if return_dict else x


class Masked(nn.Module):
    """Attention of a kind, with a causal mask among its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        return ((h @ h.transpose(1, 2) + self.mask).softmax(-1) @ h).mean(1)


def cuts() -> list[tuple[nn.Module, Any, dict[str, Any]]]:
    """Modules, cuts and further settings of all kinds: also where a cut has no name of the module's."""
    example = {"example": np.zeros((2, 16, 16, 3), np.float32)}
    fresh = {"head": "linear", "classes": 3, **example}
    seeded(0)
    return [
        (net, cut, how) for net in (small(), Branching().eval()) for cut, how in ((None, example), (None, fresh))
    ]
