"""The plain data that cross the contract when a user's own module is wrapped: what core asks for, what a backend
has made of it, and what the module itself gives, which the copy is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.graph import NativePart

# Cuts that are no name of a module's: with a space in them they cannot be one, so whatever `Wrapping.cut` says can
# be asked for.
END = "its end"
BEFORE = "before "
"""and the path of the module's classifier, where nothing in front of it has a name"""

TRUNK_NODE, HEAD_NODE = "trunk", "head"
"""the nodes of a wrapped model's graph"""


@dataclass(frozen=True)
class WrapRequest:
    """What a backend's `wrap` is asked for."""

    native: Any
    cut: str | None
    """where its trunk ends, by the module's own names; or `END`, or what `Wrapping.cut` said of it. None: at its
    end, or with `rest` before its classifier"""
    rest: bool
    """whether the rest of the module is wanted, as the head"""
    example: Any
    """two samples as core has them: images float32 `(2, h, w, 3)`, other inputs as they are"""
    params: Any
    """the parameters of functions, which hold none themselves"""
    init: Callable[[int], Any] | None
    """seed -> a module like `native`, or such `params`, drawn anew"""
    logits: bool
    """whether the end of `native` is the end of a head, which gives logits: what makes probabilities of them there
    (softmax, log_softmax, sigmoid) is taken off and named in `Wrapping.ending`"""
    fresh: bool
    """whether a fresh classifier takes the trunk's features, averaged over maps and tokens: then the trunk ends
    before the module's own classifier where no cut is named, padded tokens are left out, and which axis holds the
    channels has to be known"""
    layout: str | None
    """how the module orders the features at the cut, where its user says it: nchw, nhwc, nlc or ncl"""
    takes: str
    """of a head: the `Wrapping.layout` of the trunk in front of it"""

    @property
    def to_an_end(self) -> bool:
        """Whether the trunk ends where the module does or before its classifier, not at a place that is named."""
        return self.cut in (None, END) or str(self.cut).startswith(BEFORE)


@dataclass(frozen=True)
class Witnessed:
    """What a user's own module gives for a batch, in core's layout and dtype (`Backend.numpy` of it)."""

    cut: np.ndarray | None
    """at the cut; None where the framework has no means to look there"""
    end: np.ndarray | None
    """at its end, probabilities where it makes such; None where that is not one array"""
    rounding: float = 2.0**-23
    """the relative distance between two numbers of the kind that it computed with: of float32, float16 ..."""


@dataclass(frozen=True)
class Wrapping:
    """What a backend's `wrap` has made of a module."""

    cut: str
    """the last thing in the trunk, by the module's own names; asked for, it makes the same cut"""
    place: str
    """the same, where the framework numbers names anew each time a module is built: as it stays"""
    trunk: NativePart
    params: Mapping[str, np.ndarray]
    """of the trunk"""
    head: NativePart | None = None
    head_params: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""
    """why the trunk's structure cannot be known, where it cannot"""
    ending: str = ""
    """what was taken off the module's end so that the head gives logits: a name in `headstart.models.endings`"""
    witness: Callable[[Any], Witnessed] | None = None
    """a batch as core has it -> what the user's module itself, and no copy of it, gives when it is run as its
    owner runs it in inference: by its own call, with its hooks. It is afterwards as it was: modes, buffers, hooks,
    random state. An exception of its code is let through. None where the framework cannot run it"""
    layout: str = ""
    """how the module orders the features at the cut, where that differs from its framework's way: the trunk then
    gives them as core has them"""
    labels: Sequence[Any] = ()
    """what the module itself calls its outputs, in their order, as it says it; () where it says nothing"""
    rescales: float = 1.0
    """what the module itself multiplies its pixels by before anything else, where that can be seen; else 1"""
    token_logits: np.ndarray | None = None
    """for a fresh classifier on tokens: what the one classifier that the module has itself makes of every token
    that the trunk gives for the example, `(2, t, classes)`; None where it has none, or it reads something else"""
