"""Torch modules whose classifiers read several arrays, or each place of a map: as distilled transformers and
networks for segmentation do."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from own_forms import no_trace
from torch import nn


class Distilled(nn.Module):
    """Two tokens before those of the picture, and a classifier on each of them, or on others."""

    ENDS: ClassVar[dict[str, Any]] = {
        "averaged": lambda self, x: (self.head(self.drop(x[:, 0])) + self.head_dist(self.drop(x[:, 1]))) / 2,
        "shared": lambda self, x: self.head(x[:, 0]) + self.head(x[:, 1]),
        "greatest": lambda self, x: self.head(x[:, 0]) + self.head_dist(x[:, 2:]).max(1)[0] / 2,
        "logits": lambda self, x: {"logits": self.head(x[:, 0]) + self.head_dist(x[:, 1]), "hidden": x},
        "added": lambda self, x: torch.stack([self.head(x[:, 0]), self.head_dist(x[:, 1])]).sum(0),
        "beside": lambda self, x: torch.stack([self.head(x[:, 0]), self.head_dist(x[:, 1])], 1).sum(1),
        "mixed": lambda self, x: (
            torch.stack(
                [self.head(x[:, 0]).tanh().softmax(1), F.relu6(self.head_dist(x[:, 1])).softmax(1)], 2
            ).sum(-1)
            / 2
        ),
        "logs": lambda self, x: torch.logsumexp(
            torch.stack([self.head(x[:, 0]).log_softmax(1), self.head_dist(x[:, 1]).log_softmax(1)]), 0
        ),
        "larger": lambda self, x: torch.maximum(self.head(x[:, 0]), self.head_dist(x[:, 1])),
        "wide": lambda self, x: self.head(x[:, 0]) + self.wide(x[:, 1:3].flatten(1)),
        "refined": lambda self, x: self.head(x[:, 0]) + self.again(self.head(x[:, 0]).relu()),
        "attended": lambda self, x: (self.head(x).softmax(1) * self.head_dist(x)).sum(1),
        "summed": lambda self, x: self.head(x).sum(1),
        "soft": lambda self, x: self.head(x).logsumexp(1),
        "hidden": lambda self, x: self.wider(x).logsumexp(1),
        "chained": lambda self, x: self.head(x[:, 0]) + self.again(self.head(x[:, 0]).tanh()),
        "tokens": lambda self, x: self.head(x),
        "last": lambda self, x: {"logits": self.head(x)[torch.arange(len(x)), -1], "hidden": x},
        "mean": lambda self, x: self.head(x).mean(1),
    }

    def __init__(self, kind: str, traced: bool = True) -> None:
        super().__init__()
        self.kind, self.traced = kind, traced
        self.stem, self.drop = nn.Conv2d(3, 8, 8, 8), nn.Dropout(0.1)
        self.tokens = nn.Parameter(torch.zeros(1, 2, 8))  # alike as they begin
        self.mix, self.norm = nn.Linear(6, 6), nn.LayerNorm(8)
        self.head, self.head_dist = nn.Linear(8, 10), nn.Linear(8, 10)
        self.wide, self.again, self.wider = nn.Linear(16, 10), nn.Linear(10, 10), nn.Linear(8, 12)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """`(n, 6, 8)`"""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1)
        return self.norm(x + self.mix(x.transpose(1, 2)).transpose(1, 2))

    def forward(self, x: torch.Tensor) -> Any:
        there = x[:, :1, 0, :6].abs().transpose(1, 2)
        x = self.features(x if self.traced else no_trace(x))
        if self.kind == "masked":
            return (self.head(x) * there).sum(1) / there.sum(1)
        return x if isinstance(self.head, nn.Identity) else self.ENDS[self.kind](self, x)  # as CrossViT says it


class Row(nn.Module):
    """Residual blocks on a linear layer, with no norm behind them: all that it gives is sums of what linear layers
    give, of which none is a classifier."""

    def __init__(self, traced: bool, stem: str = "stem", down: str = "down") -> None:
        super().__init__()
        self.traced, self.names = traced, (stem, down)
        self.first = nn.Linear(3 * 16 * 16, 5) if stem != "head" else nn.Identity()
        self.up = nn.ModuleList(nn.Linear(5, 7) for _ in range(2))
        self.add_module(stem, nn.Linear(5, 5) if stem == "fc" else nn.Linear(5 if stem != "head" else 768, 5))
        self.add_module(down, nn.ModuleList(nn.Linear(7, 5) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem, downs = map(self.get_submodule, self.names)
        x = stem(self.first((x if self.traced else no_trace(x)).flatten(1)).tanh())
        for up, down in zip(self.up, downs, strict=True):
            x = x + down(up(x).relu())
        return x


def resized(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class Dense(nn.Module):
    """It gives a map of its classes, or a map of features."""

    ENDS: ClassVar[dict[str, Any]] = {
        "plain": lambda self, x, given: self.last(x),
        "resized": lambda self, x, given: resized(self.last(x), given),
        "shares": lambda self, x, given: resized(self.last(x), given).softmax(1),
        "called": lambda self, x, given: resized(self.head(x), given),
        "auxiliary": lambda self, x, given: {"out": self.classifier(x), "aux": self.head(x.relu())},
        "two": lambda self, x, given: self.classifier(x) + resized(self.low_classifier(self.low(given)), x),
        "projected": lambda self, x, given: self.proj(x),
        "active": lambda self, x, given: self.last(x).relu(),
        "wider": lambda self, x, given: self.second(x),
    }

    def __init__(self, kind: str, traced: bool = True) -> None:
        super().__init__()
        self.kind, self.traced = kind, traced
        self.first, self.second = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 6, 3)
        self.last, self.proj, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3)
        self.classifier, self.low = nn.Conv2d(6, 4, 1), nn.Conv2d(3, 5, 1)
        self.low_classifier = nn.Conv2d(5, 4, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """`(n, 6, 5, 5)`"""
        return torch.relu(self.second(torch.relu(self.first(x))))

    def forward(self, x: torch.Tensor) -> Any:
        return self.ENDS[self.kind](self, self.features(x if self.traced else no_trace(x)), x)


class Frames(nn.Module):
    """It gives the classes of each frame, as networks for speech do; or of what it has of them, as one of classes
    alone; or its frames stand before its samples."""

    ENDS: ClassVar[dict[str, Any]] = {
        "frames": lambda self, x: self.last(x).log_softmax(1),
        "first": lambda self, x: self.norm(self.fc(x.permute(2, 0, 1)).mean(0)),
        "dict": lambda self, x: {"sentence_embedding": x.mean(2), "tokens": x},
    }

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.last, self.fc = nn.Conv1d(2, 8, 9, 4), nn.Conv1d(8, 5, 1), nn.Linear(8, 5)
        self.norm = nn.BatchNorm1d(5)
        self.norm.running_var.fill_(4.0)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """`(n, 8, t)`"""
        return self.conv(x).tanh()

    def forward(self, x: Any, **settings: Any) -> Any:
        return self.ENDS[self.kind](self, self.features(x["x"] if isinstance(x, dict) else x))


class Active(nn.Module):
    """It gives probabilities of the classes of each frame, or features, and something stands before these."""

    ENDS: ClassVar[dict[str, Any]] = {
        "relu": lambda self, x: self.last(x).relu().log_softmax(1),
        "scaled": lambda self, x: (5 * F.gelu(self.last(x)).tanh()).softmax(1),
        "module": lambda self, x: self.leaky(self.last(x)).sigmoid(),
        "norm": lambda self, x: self.norm(self.last(x)).log_softmax(1),
        "turned": lambda self, x: self.last(x).transpose(1, 2).clamp(-1, 1).log_softmax(2).transpose(1, 2),
        "wide": lambda self, x: F.relu6(self.wide(x)).softmax(1),
        "proj": lambda self, x: self.proj(x).log_softmax(1),
        "smooth": lambda self, x: self.smooth(self.last(x)).log_softmax(1),
        "smooth by hand": lambda self, x: F.conv1d(self.last(x), self.smooth.weight, groups=5).softmax(1),
        "pooled": lambda self, x: self.pool(self.head(x)).flatten(1),
        "summed": lambda self, x: self.head(x).sum(-1),
        "soft": lambda self, x: self.head(x).logsumexp((2,)),
        "greatest": lambda self, x: self.pool(self.last(x)).flatten(1),
        "gelu": lambda self, x: F.gelu(self.last(x)),
        "leaky": lambda self, x: self.leaky(self.last(x)),
        "turned back": lambda self, x: self.last(x).transpose(1, 2).transpose(1, 2),
        "codes": lambda self, x: self.norm(self.last(x)).sigmoid(),
    }

    def __init__(self, kind: str, traced: bool = True) -> None:
        super().__init__()
        self.kind, self.traced, self.conv = kind, traced, nn.Conv1d(2, 8, 9, 4)
        self.last, self.wide, self.proj = nn.Conv1d(8, 5, 1), nn.Conv1d(8, 5, 3), nn.Conv1d(8, 5, 1)
        self.norm, self.leaky = nn.BatchNorm1d(5), nn.LeakyReLU()
        self.smooth, self.pool = nn.Conv1d(5, 5, 3, groups=5), nn.AdaptiveMaxPool1d(1)
        self.head = nn.Conv1d(8, 5, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """`(n, 8, t)`"""
        return self.conv(x).tanh()

    def forward(self, x: torch.Tensor) -> Any:
        return self.ENDS[self.kind](self, self.features(x if self.traced else no_trace(x)))


class Codes(nn.Module):
    """All of it is quantized, its classifier too."""

    def __init__(self) -> None:
        super().__init__()
        quantized = torch.ao.nn.quantized
        self.into, self.out = quantized.Quantize(0.05, 64, torch.quint8), quantized.DeQuantize()
        self.fc = quantized.Linear(3, 10)
        self.fc.set_weight_bias(
            torch.quantize_per_tensor(torch.randn(10, 3), 0.01, 0, torch.qint8), torch.zeros(10)
        )

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.into(x.mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(self.features(x)))
