"""Which trunks and cuts are looked at.

Invariant: of a model that is asked for by name and whose weights cannot be had, one line says so, and the others
are looked at all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.errors import CutError, DownloadError, SettingError, WeightsError
from headstart.common.log import LOG
from headstart.graph.ops import INERT
from headstart.models import Model, check_model
from headstart.models.default_model import PHOTOGRAPHS, SHIPPED, default_model
from headstart.models.model import model as make_model
from headstart.models.weights import RANDOM, is_here, weights_for
from headstart.models.zoo import architecture

NAMED = (PHOTOGRAPHS, SHIPPED)
"""looked at where none are named, those whose weights are at hand"""
EARLIER = 3
"""cuts before the classifier's that are looked at, where none are named"""
DEPTHS = (0.5, 0.75)
"""of a vision transformer's blocks"""
WIDENED = 3
"""times the channels, by which inverted bottlenecks widen maps at least"""
AVERAGING = frozenset({"input", "global_avg_pool", "adaptive_avg_pool"}) | INERT


@dataclass(frozen=True)
class Candidate:
    """A trunk, and where it may be cut."""

    label: str
    """its name, with its weights where that is needed to tell it from another"""
    model: Model
    """with the data's classes"""
    cuts: tuple[str, ...]
    """nodes, in the order of the network"""
    named_weights: str | None
    """as `--weights` takes them, None: the model's first published ones"""

    @property
    def pretrained(self) -> bool:
        """Whether it has learnt something; of a module that somebody wrapped, that is taken for granted."""
        return self.model.weights is not None or self.model.home is not None

    @property
    def earlier(self) -> str | None:
        """Where `fit` would cut to train more than the classifier: the last of the cuts before the one that the
        classifier takes, where maps are still larger than at the end. None where there is no such cut."""
        shapes, order = self.model.graph.shapes(self.model.input_shape), self.model.graph.cuts()
        before = order[: order.index(self.model.default_cut)]
        least = min((shapes[cut][0] for cut in before if len(shapes[cut]) == 3), default=0)
        looked_at = [cut for cut in before if cut in self.cuts]
        larger = [cut for cut in looked_at if len(shapes[cut]) != 3 or shapes[cut][0] > least]
        return next(reversed(larger or looked_at), None)


def candidates(
    models: str | Model | Sequence[str | Model] | None,
    cuts: str | Sequence[str] | None,
    classes: Sequence[str] | int,
    size: int | None = None,
    decode: str | None = None,
) -> list[Candidate]:
    """`models`: names, such as "resnet50", "resnet50:imagenet:a1" for weights of a name, or "resnet50:none" for
    random ones; or models. `cuts`: each model is cut at those that it has, and at what its classifier takes.

    Raises UnknownNameError for a model that is not in the zoo, SettingError for what is neither, and where one
    stands twice; CutError for a cut that no model has; WeightsError where there are weights of none.
    """
    if models is None:
        models = [name for name in NAMED if is_here(next(iter(architecture(name).weights.values())))]
        if PHOTOGRAPHS not in models:
            LOG.info("without %s: %s", PHOTOGRAPHS, default_model(photographs=True).why)
    listed = (
        [models] if isinstance(models, str | Model) else list(models) if isinstance(models, Iterable) else None
    )
    if not listed:
        raise SettingError(f"models={models!r:.200}; expected names of models, such as {', '.join(NAMED)}")
    for entry in listed:
        if isinstance(entry, str):
            architecture(entry.partition(":")[0])
        else:
            check_model(entry)
    made: list[tuple[Model, str | None]] = []
    reasons = []
    for entry in listed:
        if not isinstance(entry, str):
            made.append((entry.without_auxiliary(), entry.weights or RANDOM))
            continue
        name, _, named = entry.partition(":")
        try:
            network = make_model(name, weights_for(name, named or None), classes, size=size, decode=decode)
            network = network.without_auxiliary()
        except (WeightsError, DownloadError) as error:
            reasons.append(f"{name}: {error}")
            LOG.warning("without %s, whose weights are not to be had: %s", name, error)
            continue
        made.append((network, named or None if network.weights else RANDOM))
    if not made:
        raise WeightsError(f"no model is left to look at: {'; '.join(reasons)}")
    labels = _labels([network for network, _ in made])
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise SettingError(f"models has {twice} twice; name each once, or with its weights, as {twice}:none")
    return [
        Candidate(label, network, at, named)
        for label, (network, named), at in zip(
            labels, made, _cuts_of_all([network for network, _ in made], cuts), strict=True
        )
    ]


def _labels(models: Sequence[Model]) -> list[str]:
    names = [model.name for model in models]
    return [
        model.name
        if names.count(model.name) == 1 and (model.weights is not None or model.home is not None)
        else f"{model.name}, {model.weights or 'random'}"
        for model in models
    ]


def _cuts_of_all(models: Sequence[Model], cuts: str | Sequence[str] | None) -> list[tuple[str, ...]]:
    if cuts is None:
        return [default_cuts(model) for model in models]
    named = [cuts] if isinstance(cuts, str) else list(cuts)
    if not named:
        raise SettingError("cuts is empty; name at least one, such as 'avgpool'")
    nodes: list[set[str]] = [{model.default_cut} for model in models]
    for cut in named:
        errors: list[CutError] = []
        for of_model, model in zip(nodes, models, strict=True):
            try:
                of_model.add(model.graph.check_cut(cut))
            except CutError as error:
                errors.append(error)
        if len(errors) == len(models):
            raise errors[0]
    return [
        tuple(cut for cut in model.graph.cuts() if cut in of_model)
        for of_model, model in zip(nodes, models, strict=True)
    ]


def default_cuts(model: Model) -> tuple[str, ...]:
    """What the classifier takes, and before it the last map of each of the last few resolutions: between two of
    them a network's block is reduced, and where it is cut it is cut there. Maps that only widen what a block
    gives, for the next one to reduce, are passed over."""
    shapes: dict[str, Any] = model.graph.shapes(model.input_shape)
    order = model.graph.cuts()
    last = model.default_cut
    by_side: dict[tuple[int, ...], list[str]] = {}
    for cut in order[: order.index(last)]:
        if len(shapes[cut]) == 3:
            by_side.setdefault(shapes[cut][:2], []).append(cut)
    maps = [_end_of_block(cuts, shapes) for cuts in by_side.values()]
    if any(node.op == "first_token" for node in model.graph.nodes):  # a vision transformer's blocks
        sums = [cut for cut in order if len(shapes[cut]) == 2 and model.graph[cut].op == "add"]
        return (*(sums[round(share * len(sums)) - 1] for share in DEPTHS), last)
    # what is only averaged for the classifier gives the same features
    return (*[cut for cut in maps if not _is_pooled(model, cut, last)][-EARLIER:], last)


def _end_of_block(cuts: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of cuts of one resolution the last that is not a widened one."""
    channels = [shapes[cut][2] for cut in cuts]
    narrow = min(channels)
    if channels[-1] >= WIDENED * narrow:
        return [cut for cut, width in zip(cuts, channels, strict=True) if width < channels[-1]][-1]
    return cuts[-1]


def _is_pooled(model: Model, cut: str, last: str) -> bool:
    """Whether a map is only averaged, or widened and averaged, on the way to the last cut."""
    between = model.graph.upto(last).after(cut, model.input_shape).nodes
    return all(node.op in AVERAGING for node in between)
