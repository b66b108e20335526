"""What the zoo has: its models by name, what each costs, where each can be cut, and the weights of each.

Counted with 1,000 classes, without making a model: no weights are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from headstart.common.errors import HeadstartError, SettingError
from headstart.common.table import Table
from headstart.common.text import shape_text, share_text
from headstart.models import imported, packaged, pickles
from headstart.models.architecture import Architecture, Hub, Packaged, Pickled, Shipped
from headstart.models.default_model import defaults
from headstart.models.model import count_params
from headstart.models.pins import pinned, stated
from headstart.models.weights import is_here
from headstart.models.zoo import ARCHITECTURES, architecture

CLASSES = 1000
FLOAT16_NBYTES = 2


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models in the zoo that match a pattern such as "resnet*", where `*` stands for any
    characters, `?` for one and `[ab]` for one of these; in the zoo's order, none where nothing matches.

    Raises SettingError for a pattern that is no text.
    """
    if not isinstance(pattern, str):
        raise SettingError(f"pattern={pattern!r}; expected a text such as 'resnet*'")
    return [name for name in ARCHITECTURES if fnmatchcase(name, pattern)]


# ---- models


@dataclass(frozen=True)
class ModelSummary:
    """What one model costs."""

    name: str
    parameters: int
    multiply_adds: int | None
    """of one image; None where the model does not take images of this size"""
    pixels: int
    """side of the images"""
    weights: tuple[str, ...]
    """names of published weights"""
    here: tuple[str, ...]
    """those of them that need no network any more"""
    default_for: tuple[str, ...]
    """the data that get it where no model is named: "photographs", "digits\""""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "model": self.name,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "pixels": self.pixels,
            "weights": list(self.weights),
            "here": list(self.here),
            "default_for": list(self.default_for),
        }


def summaries(size: int | None = None) -> list[ModelSummary]:
    """A summary of each model, for images of `size` pixels; default: the size that each is made for."""
    taken = defaults()
    return [_summary(arch, size or arch.preprocess.size, taken) for arch in ARCHITECTURES.values()]


def _summary(arch: Architecture, side: int, defaults: Mapping[str, str]) -> ModelSummary:
    multiply_adds: int | None
    try:
        graph = arch.graph(CLASSES, size=side)
        multiply_adds = sum(graph.main.macs((side, side, 3)).values())
    except HeadstartError:  # it takes images of one size, or multiples of a patch, only
        graph, multiply_adds = arch.graph(CLASSES), None
    here = tuple(name for name, published in arch.weights.items() if is_here(published))
    default_for = tuple(data for data, name in defaults.items() if name == arch.name)
    return ModelSummary(
        arch.name, count_params(graph), multiply_adds, side, tuple(arch.weights), here, default_for
    )


def models_table(models: Iterable[ModelSummary]) -> Table:
    """For a terminal."""
    rows = [
        (
            model.name,
            f"{model.parameters:,}",
            "-" if model.multiply_adds is None else f"{model.multiply_adds / 1e9:.3f} G",
            str(model.pixels),
            ", ".join(model.weights) or "-",
            ", ".join(model.here) or "no",
            ", ".join(model.default_for),
        )
        for model in models
    ]
    return Table(
        ("model", "parameters", "multiply-adds", "pixels", "weights", "here", "default for"), rows, right=(1, 2, 3)
    )


# ---- cuts


@dataclass(frozen=True)
class CutSummary:
    """What one legal cut of a model gives and leaves."""

    cut: str
    shape: tuple[int, ...]
    """of one sample's features, `(h, w, c)` or `(c,)`"""
    float16_nbytes: int
    """of one sample's features, stored as float16"""
    flops_share_before: float
    """the trunk's share of the whole model's multiply-adds, 0 to 1"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "cut": self.cut,
            "shape": list(self.shape),
            "bytes_per_sample_float16": self.float16_nbytes,
            "flops_share_before": self.flops_share_before,
        }


def cut_summaries(name: str, size: int | None = None) -> list[CutSummary]:
    """A summary of each legal cut of a model, in the order of the network, for images of `size` pixels (default:
    the size that it is made for). UnknownNameError for no model of the zoo, GraphError for images too small."""
    arch = architecture(name)
    side = size or arch.preprocess.size
    graph = arch.graph(CLASSES, size=side).main
    shapes, multiply_adds = graph.shapes((side, side, 3)), graph.macs((side, side, 3))
    cuts, total, before = set(graph.cuts()), sum(multiply_adds.values()), 0
    summaries = []
    for node in graph.nodes:
        before += multiply_adds[node.name]
        if node.name in cuts:
            shape = shapes[node.name]
            summaries.append(CutSummary(node.name, shape, FLOAT16_NBYTES * math.prod(shape), before / total))
    return summaries


def cuts_table(cuts: Iterable[CutSummary]) -> Table:
    """For a terminal."""
    rows = [
        (cut.cut, shape_text(cut.shape), f"{cut.float16_nbytes / 1000:,.1f}", share_text(cut.flops_share_before))
        for cut in cuts
    ]
    return Table(("cut", "shape", "kB a sample", "FLOPs before"), rows, right=(1, 2, 3))


# ---- weights


@dataclass(frozen=True)
class WeightsSummary:
    """Where the weights of one name are from."""

    model: str
    weights: str
    source: str
    """a repository of the hub, an address, or a file"""
    here: bool
    """whether they need no network any more"""
    pinned: str | None
    """what says which bytes they are: "release", "first use", "import"; None: nothing does yet"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "model": self.model,
            "weights": self.weights,
            "from": self.source,
            "here": self.here,
            "pinned": self.pinned,
        }


def weights_summaries(model: str | None = None) -> list[WeightsSummary]:
    """Published and imported weights of every model, or of one. UnknownNameError for no model of the zoo."""
    architectures = list(ARCHITECTURES.values()) if model is None else [architecture(model)]
    return [
        weights_summary(arch, name)
        for arch in architectures
        for name in [*arch.weights, *imported.names(arch.name)]
    ]


def weights_summary(arch: Architecture, name: str) -> WeightsSummary:
    """Of published or imported weights of this name."""

    def summary(source: str, here: bool, pinned: str | None) -> WeightsSummary:
        return WeightsSummary(arch.name, name, source, here, pinned)

    entry = arch.weights.get(name)
    match entry and packaged.at_hand(entry):
        case Packaged() as published:
            return summary(published.distribution, is_here(published), "release")
        case Hub() as published:
            is_stated, is_pinned = (pin.sha256 is not None for pin in (stated(published), pinned(published)))
            pinned_by = "release" if is_stated else "first use" if is_pinned else None
            return summary(published.repo, is_here(published), pinned_by)
        case Pickled() as published:
            return summary(published.url, is_here(published), "release")
        case Shipped() as published:
            return summary(published.file, is_here(published), "release")
        case _:
            path = imported.find(arch.name, name)
            about = pickles.provenance(path) if path is not None else {}
            return summary(about.get("source", "?"), True, "import")


def weights_table(weights: Iterable[WeightsSummary]) -> Table:
    """For a terminal."""
    rows = [
        (file.model, file.weights, file.source, "yes" if file.here else "no", file.pinned or "-")
        for file in weights
    ]
    return Table(("model", "weights", "from", "here", "pinned by"), rows)
