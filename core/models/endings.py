"""What a classifier may end in behind its logits. Training and scores take logits; a module that ends in one of
these has it taken off, and it is put back only to compare what is left with the module itself.

Invariant: each keeps the order of the classes, so predictions stay what they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import numpy as np

from headstart.common.log import LOG
from headstart.contract.wrapping import BEFORE, END


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    shares: np.ndarray = exponentials / exponentials.sum(-1, keepdims=True)
    return shares


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.exp(-np.logaddexp(0, -logits))  # of any size: exp alone overflows
    return values


ENDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda logits: logits,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "sigmoid": _sigmoid,
}
SHARES = 1e-3  # of how far sums of probabilities are from 1 in half precision


def are_shares(rows: np.ndarray) -> bool:
    """Whether rows `(n, classes)` look like a softmax's: within [0, 1], with a sum of 1."""
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        return False
    inside = (rows >= 0).all() and (rows <= 1).all()
    return bool(inside and (np.abs(rows.sum(1) - 1) < SHARES).all())


def are_bounded(*runs: np.ndarray) -> bool:
    """Whether all rows lie within [0, 1], and are not the same for all samples, as a head that begins at zero
    has them."""
    rows = np.concatenate(runs)
    return bool((rows >= 0).all() and (rows <= 1).all() and np.ptp(rows, axis=0).max(initial=0) > 0)


MANY = 16  # numbers: so many of any sign are not all above 0 by chance


def tell_of_rectified(end: np.ndarray | None, called: str, cut: str) -> None:
    """Say it where a module `called` so, which was cut before the layer at its end, gives what features may be as
    well as numbers of classes. `end`: what it gives for two samples, None where that is not one array."""
    if cut == END or end is None or end.ndim != 2 or not end.any() or are_shares(end):  # 0 of one that begins so
        return
    if (end >= 0).all() and ((end == 0).any() or end.size >= MANY):
        LOG.info(
            "%s gives %d numbers of which none is below 0, as a ReLU does, and a fresh classifier takes what they "
            "are made of (%s); if they are features, cut=%r takes them",
            called,
            end.shape[1],
            cut if cut.startswith(BEFORE) else f"cut at {cut!r}",
            END,
        )


def doubted(parameter: str, is_layer: bool) -> str:
    """What the rows at an end are made with, in words: a parameter, or the layer whose weight it is. "" where its
    name says that it is no classifier: a projection's, or that of a layer which somebody gave a name."""
    layer = parameter.rpartition(".")[0]
    if is_projection(parameter) or (is_layer and not is_numbered(layer)):
        return ""
    return f"layer {layer!r}" if is_layer else f"parameter {parameter!r}"


def tell_of_doubted(called: str, count: int, what: str, by_name: bool) -> None:
    """Say that a fresh head takes what a module `called` so gives, `count` numbers, for features. `what`, see
    `doubted`, makes them, and may well be a classifier. `by_name`: it would be taken for one if called so."""
    LOG.info(
        "a fresh head gets what %s gives, %d numbers, as features. If these are numbers of classes, which %s "
        "makes, %spass cut=, what is in front of it",
        called,
        count,
        what,
        "say so by its name, as in 'classifier', or " if by_name else "",
    )


# As frameworks call them, in small letters. What stands in front of an ending gives no features, whatever it does
# to each number; without one, a network may well end in features that these made.
ELEMENTWISE = frozenset((
    "abs", "absolute", "arctan", "asinh", "arcsinh", "atan", "celu", "clamp", "clampmax", "clampmin", "clip",
    "elu", "erf", "erfc", "exp", "expm1", "gelu", "hardshrink", "hardsilu", "hardswish", "hardtanh",
    "integerpow", "leakyrelu", "log", "log1p", "logaddexp", "maximum", "minimum", "mish", "pow", "power", "prelu",
    "prelukernel",
    "relu", "relu6", "rrelu", "rsqrt", "selectn", "selu", "sign", "silu", "softplus", "softshrink", "softsign",
    "sqrt", "square", "squareplus", "swish", "tanh", "tanhshrink", "threshold", "where",
))  # fmt: skip
# A sigmoid makes codes of what these give, a softmax probabilities of classes.
NORMS = frozenset(
    f"{native}{kind}norm{alization}"
    for native in ("", "native", "cudnn")
    for kind in ("batch", "layer", "group", "instance", "rms")
    for alization in ("", "alization")
) | {"normalize", "unitnormalization"}


def is_shared_out(ending: str) -> bool:
    """Whether it shares out probabilities among classes, as no encoder ends."""
    return "softmax" in ending


def may_precede(name: str, ending: str) -> bool:
    """Whether a function, or layer, that is called so may stand between a classifier and an ending, "" if there is
    none."""
    plain = name.replace("_", "").lower()
    return bool(ending) and (plain in ELEMENTWISE or (is_shared_out(ending) and plain in NORMS))


RECTIFIERS = ("relu", "relu6")


def squashes(name: str) -> bool:
    """Whether a function, or layer, that is called so bounds numbers of classes, as some classifiers do at their
    end, and features, as encoders do."""
    return name.replace("_", "").lower() == "tanh"


@dataclass(frozen=True)
class Behind:
    """What stands between a place in a module and the module's end."""

    ending: str = ""
    """probabilities are made of it, as this of `ENDINGS` makes them, and given"""
    plain: bool = True
    """nothing but what gives numbers another shape or type, and makes probabilities"""
    turned: bool = False
    """axes are turned, as of features, too: only what probabilities are made of is a classifier"""
    named: bool = False
    """the greatest is taken, or the sum of all tokens, as encoders have it of features, too: only a layer that is
    called so is a classifier, or what probabilities of classes are made of"""

    squashed: bool = False
    """a `tanh` stands there without an ending: only a layer that is called a classifier's, and not just connected
    fully (`fc`), is one"""
    rectified: bool = False
    """numbers below 0 are made 0 there, without an ending: a layer that gives as many numbers as it reads, or
    more, is a hidden one, behind which a classifier has been taken off (`vgg.classifier[:-1]`)"""
    scores: bool = False
    """the module calls what it gives logits, so that a layer that is called a projection makes them, too"""

    def bound(self, name: str) -> Self:
        """The same of what is before a step that is called so, if that is one of those that bound numbers."""
        if self.ending:
            return self
        rectified = self.rectified or name.replace("_", "").lower() in RECTIFIERS
        return replace(self, squashed=self.squashed or squashes(name), rectified=rectified)

    def then(self, ending: str, shapes: bool, turns: bool) -> Self:
        """The same of what is before a step. `ending`: the one that the step is, or the nearest to it; `shapes`:
        it gives numbers another shape or type alone; `turns`: it turns axes."""
        return replace(
            self,
            ending=self.ending or (ending if self.plain else ""),
            plain=self.plain and (shapes or turns or bool(ending)),
            turned=self.turned or turns,
        )

    @property
    def stands(self) -> bool:
        """Whether a classifier may be there."""
        return not self.turned or bool(self.ending)

    @property
    def turns(self) -> bool:
        """Whether a step that turns axes may be there."""
        return self.plain or bool(self.ending)

    @property
    def ranked(self) -> bool:
        """Whether it is shared out among classes, so that what made it is a classifier however it is called."""
        return is_shared_out(self.ending)

    @property
    def doubted(self) -> bool:
        """Whether features may end like this as well as numbers of classes, so that `takes` decides."""
        return self.named or self.squashed or self.rectified

    def takes(self, path: str, widths: tuple[int, int] = (0, 0)) -> bool:
        """Whether a linear layer that is called so is a classifier there, if one may be. `widths`: how many
        numbers it reads of a place, and how many it gives; 0 where that is not known."""
        if self.rectified and not self.ranked and 0 < widths[0] <= widths[1]:
            return False
        if self.squashed and not self.ranked:
            return is_scoring(path) and not is_projection(path)
        return self.ranked or (is_ranking(path) if self.named else not self.projects(path))

    def projects(self, path: str) -> bool:
        """Whether a layer that is called so is a projection there, as encoders end in, and no classifier."""
        return is_projection(path) and not (self.ranked or self.scores)


APART = (
    "the classifiers at the end of {called}, {names}, read arrays of their own, and a fresh one takes one array: "
    "wrap a module that gives them side by side, with cut='its end'; or choose with cut= what a single one reads"
)


# What people call a linear layer at a module's end: the classifier, or a projection that encoders end in.
RANKINGS = ("classifier", "head", "fc", "logits")
PROJECTIONS = ("proj", "embed", "neck", "bottleneck")


NUMBERED = re.compile(r"(?:[A-Z]\w*_)?\d+")  # in torch.nn.Sequential and its like; by linen itself


def is_product(einsum: object) -> bool:
    """Whether it is said to multiply the last axis by a matrix, as a linear layer does."""
    if not isinstance(einsum, str) or "->" not in einsum or einsum.count(",") != 1:
        return False
    taken, matrix, given = einsum.replace(" ", "").replace("->", ",").split(",")
    plain = bool(taken and given) and taken[:-1] == given[:-1] and len(matrix) == 2
    return plain and taken[-1] != given[-1] and {taken[-1], given[-1]} == {*matrix}


def is_projection(path: str) -> bool:
    """Whether a layer is called like a projection, as the end of an encoder, which is no classifier."""
    return any(word in path.lower() for word in PROJECTIONS)


def is_numbered(path: str) -> bool:
    """Whether a layer has a place in a row, and no name of its own."""
    return NUMBERED.fullmatch(path.rpartition(".")[2]) is not None


def is_ranking(path: str) -> bool:
    """Whether a layer is called like a classifier."""
    return any(word in part for word in RANKINGS for part in _ends_of(path))


def is_scoring(path: str) -> bool:
    """The same, but for a fully connected layer, `fc`, which is found anywhere."""
    return any(word in part for word in RANKINGS if word != "fc" for part in _ends_of(path))


def _ends_of(path: str) -> tuple[str, str]:
    return path.partition(".")[0], path.rpartition(".")[2]


T = TypeVar("T", bound=Hashable)


def reached(starts: Iterable[T], before: Callable[[T], Iterable[T]]) -> Iterator[T]:
    """All that is behind the starts, these too, each once. `before`: what one is made of."""
    waiting, seen = [*starts], set[T]()
    while waiting:
        if (place := waiting.pop()) not in seen:
            seen.add(place)
            yield place
            waiting += before(place)


@dataclass(frozen=True)
class Layer(Generic[T]):
    """One of several layers that all of what a module gives comes from."""

    name: str
    taken: Sequence[T]
    """what it reads"""
    made: T
    """where its numbers are made"""
    widths: tuple[int, int] = (0, 0)
    """how many numbers it reads of a place, and how many it gives; 0: not known"""


def classifiers_among(
    layers: Collection[Layer[T]], before: Callable[[T], Iterable[T]], learned: Callable[[T], bool]
) -> list[Layer[T]]:
    """Those that are classifiers: all of them, if none reads what is made of another's numbers. Else they stand in
    a row of residual blocks, of which none is one; or the first make numbers of classes, and the others refine
    these. The first are then called classifiers, stand behind what was learned, and give not as many numbers as
    they read; how the others are called says nothing. `learned`: whether something is computed with a matrix of
    weights, or is one."""
    made = {layer.made for layer in layers}
    firsts: list[Layer[T]] = []
    refined = False
    for layer in layers:
        places = list(reached(layer.taken, before))
        if made.isdisjoint(places):
            firsts.append(layer)
            refined = refined or (_refines(layer) and any(map(learned, places)))
    return firsts if refined or len(firsts) == len(layers) else []


def _refines(first: Layer[T]) -> bool:
    """Whether what it gives may be numbers of classes. A fully connected layer, `fc`, is found in any block."""
    taken, given = first.widths
    return is_scoring(first.name) and (taken != given or not taken)
