"""Torch modules in forms that libraries have them in: maps with the channels last, several outputs, parts that
cannot be traced."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn


def no_trace(x: torch.Tensor) -> torch.Tensor:
    """torch.fx cannot follow this."""
    return -x if x.sum() > 1e9 else x


class Windows(nn.Module):
    """A block on maps `(n, h, w, c)`: attention inside of windows of 2x2, as Swin has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.proj = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        y = self.norm(x).view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.proj(torch.softmax(y @ y.transpose(1, 2), -1) @ y)
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + y


class Last(nn.Module):
    """Maps with the channels last from `blocks` on, which a convolution gave with the channels first."""

    def __init__(self, traceable: bool = True) -> None:
        super().__init__()
        self.traceable = traceable
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.blocks = nn.Sequential(Windows(12), Windows(12))
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.traceable:
            x = no_trace(x)
        return self.fc(self.blocks(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Mixer(nn.Module):
    """Linear layers over tokens and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.norm1, self.tokens = nn.LayerNorm(12), nn.Linear(16, 16)
        self.norm2, self.channels = nn.LayerNorm(12), nn.Linear(12, 12)
        self.end = nn.Identity()
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = self.end(x + self.channels(self.norm2(x)))
        return self.fc(x.mean(1))


class Series(nn.Module):
    """One-dimensional convolutions: `(n, c, t)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 12, 9, 4), nn.BatchNorm1d(12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).amax(2))


class Silent(nn.Module):
    """Nothing says what its axes are."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()
        self.fc = nn.Linear(16 * 16 * 3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(x).flatten(1))


class Pyramid(nn.Module):
    """Levels of which each goes on and out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.side = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        one = torch.relu(self.one(x))
        return {"side": self.side(one), "top": torch.relu(self.two(one))}


class Inner(nn.Module):
    """A stack of blocks that cannot be traced, in a module that can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class Output(NamedTuple):
    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    pooler_output: torch.Tensor | None = None


class Encoder(nn.Module):
    """As transformers' encoders are: several outputs, tokens of which the first may stand for all."""

    def __init__(self, pooler: bool, first: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        if first:
            self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.block, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.pooler = nn.Linear(8, 8) if pooler else None
        self.first = first

    def forward(self, pixel_values: torch.Tensor) -> Output:
        x = no_trace(self.stem(pixel_values)).flatten(2).transpose(1, 2)
        if self.first:
            x = torch.cat((self.cls_token + x.mean(1, keepdim=True), x), 1)  # as if it attended to all
        y = self.norm(x + torch.tanh(self.block(x)))
        return Output(y, (x, y), None if self.pooler is None else torch.tanh(self.pooler(y[:, 0])))


class Classifier(nn.Module):
    """The encoder and a classifier, whose logits are one of several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(True, True)
        self.drop, self.classifier = nn.Dropout(0.1), nn.Linear(8, 5)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, Any]:
        found = self.encoder(no_trace(pixel_values))
        return {
            "loss": None,
            "logits": self.classifier(self.drop(found.pooler_output)),
            "all": found.hidden_states,
        }


class Quantized(nn.Module):
    """Quantized convolutions, as torchvision's quantized networks have them, with floats before and behind."""

    def __init__(self) -> None:
        super().__init__()
        quantized = torch.ao.nn.quantized
        self.into = quantized.Quantize(0.05, 64, torch.quint8)
        self.first, self.second = quantized.Conv2d(3, 8, 3, 2), quantized.Conv2d(8, 8, 3)
        self.first.scale = self.second.scale = 0.05
        for layer in (self.first, self.second):  # torch leaves the weights as the memory was
            weight = torch.randn(layer.weight().shape) * 0.2
            layer.set_weight_bias(torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8), torch.zeros(8))
        self.out, self.fc = quantized.DeQuantize(), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.into(x)))
        return self.fc(self.out(x).mean((2, 3)))


class Ended(nn.Module):
    """Two convolutions, of which the second may be left out of a slice, and what comes of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.layers.append(nn.Conv2d(12, 4, 1))
        self.fc = nn.Linear(12, 10)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[:-1](x).mean((2, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.features(x))


class Cosine(Ended):
    """Its classes are directions, as in ArcFace."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.randn(10, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = nn.functional.normalize
        return 16 * nn.functional.linear(normal(self.features(x)), normal(self.classes))


class Directions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(10, 12)), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale.exp() * (x @ nn.functional.normalize(self.weight).t())


def halves(shares: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Shares `(n, classes)`, of which those at a class's threshold become a half."""
    thresholds, moved = thresholds.expand(len(shares), -1), torch.zeros_like(shares)
    low = shares < thresholds
    moved[low] = shares[low] / (2 * thresholds[low])
    moved[~low] = 1 - (1 - shares[~low]) / (2 * (1 - thresholds[~low]))
    return moved


class Compared(Ended):
    """Its classifier is written in one of many ways, and is no linear layer, or no such layer alone."""

    ENDS: ClassVar[dict[str, Any]] = {
        "product": lambda self, x: x @ self.classes.T + self.offset,
        "cosines": lambda self, x: x @ nn.functional.normalize(self.classes).t() / self.offset.exp(),
        "einsum": lambda self, x: torch.einsum("nd,kd->nk", x, self.classes),
        "angles": lambda self, x: nn.functional.cosine_similarity(x[:, None], self.classes[None], dim=-1),
        "distances": lambda self, x: -torch.cdist(x, self.prototypes),
        "squares": lambda self, x: -((x.unsqueeze(1) - self.prototypes) ** 2).sum(-1),
        "temperature": lambda self, x: self.fc(x) / self.offset.exp(),
        "joined": lambda self, x: torch.cat([self.fc(x), self.other(x)], 1)[:, 5:15],
        "averaged": lambda self, x: (self.fc(x) + self.other(x)) / 2,
        "thresholds": lambda self, x: halves(torch.sigmoid(self.fc(x)), torch.full((1, 10), 0.4)),
        "doubled": lambda self, x: functools.reduce(lambda y, _: y + y, range(40), self.fc(x)),
        "module": lambda self, x: self.directions(x),
        "normed": lambda self, x: self.norm(self.fc(x)),
        "projected": lambda self, x: x @ self.proj,
        "pooled": lambda self, x: (torch.softmax(self.fc(x), 1) * self.other(x)).sum(1, keepdim=True),
    }

    def __init__(self, kind: str, traced: bool = True) -> None:
        super().__init__()
        self.kind, self.traced = kind, traced
        self.other, self.directions, self.norm = nn.Linear(12, 10), Directions(), nn.BatchNorm1d(10)
        self.norm.running_var.fill_(4.0)  # at 1 it would change nothing
        self.classes, self.proj = nn.Parameter(torch.randn(10, 12)), nn.Parameter(torch.randn(12, 10))
        self.register_buffer("prototypes", torch.randn(10, 12))
        self.offset = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ENDS[self.kind](self, self.features(x if self.traced else no_trace(x)))


class Several(Compared):
    """It gives several arrays."""

    GIVEN: ClassVar[dict[str, Any]] = {
        "shares": lambda self, x: (torch.softmax(y := self.fc(x), 1), y),
        "dict": lambda self, x: {"out": self.fc(x)},
        "tasks": lambda self, x: {"age": self.other(x), "kind": self.fc(x)},
        "features": lambda self, x: (self.fc(x), x),
        "apart": lambda self, x: {"age": self.other(x.tanh()), "kind": self.fc(x.sigmoid())},
    }

    def forward(self, x: torch.Tensor) -> Any:
        return self.GIVEN[self.kind](self, self.features(x if self.traced else no_trace(x)))


class Tied(Ended):
    """Its classifier has the weights of a table, and none of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 10, bias=False)
        self.classes = nn.Embedding(10, 12)
        self.fc.weight = self.classes.weight
        self.register_module("fc", self._modules.pop("fc"))  # behind the table, which names the weights then


@dataclass
class Given:
    logits: torch.Tensor
    embedding: torch.Tensor


class Named(NamedTuple):
    embedding: torch.Tensor
    logits: torch.Tensor


class Records(Ended):
    """It gives an object with its logits."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        embedding = self.features(x)
        return self.kind(embedding=embedding, logits=self.fc(embedding))


class Ending(Ended):
    """It cannot be traced, and does more at its end than its classifier."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(no_trace(x))
        if self.kind == "cast":
            return logits * 1
        return torch.log_softmax(logits, -1) if self.kind == "log_softmax" else torch.softmax(logits, -1)


class Saturated(Ended):
    """It cannot be traced, and its logits lie so far from 0 that what is made of them is 0 or 1."""

    def __init__(self, spread: bool) -> None:
        super().__init__()
        self.spread = spread
        with torch.no_grad():
            self.fc.weight *= 1e6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = torch.sigmoid(super().forward(no_trace(x)))
        return halves(shares, torch.full((1, 10), 0.4)) if self.spread else shares


class Autocast(Ended):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


class Twice(Ended):
    """Two ways through it, which nothing goes through alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x)) + self.fc(self.features(x.flip(-1)))


class Keyword(Ended):
    def forward(self, *, pixels: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return super().forward(pixels) * scale
