"""How a wrapped module's own features are ordered: which axis of a map, or of tokens, holds the channels. Core has
`(n, h, w, c)` and `(n, t, c)`; a backend turns what a module gives into that.

Invariant: the order is known, or said by the user; a fresh classifier never averages over axes by a guess.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.common.errors import DataWarning, SettingError
from headstart.graph import Shape

LAYOUTS = {"nchw": "nchw", "nhwc": "nhwc", "nlc": "nlc", "tokens": "nlc", "ncl": "ncl"}
MASKS = ("attention_mask", "mask")
"""what an array of a dict is called that says which tokens count: true, or 1, for those that do"""
DOUBTFUL = ("padding_mask", "pad_mask", "key_padding_mask", "src_key_padding_mask", "input_mask")
"""what one is called that says which are padding; in some libraries true, or 1, is a token, in others it is not"""
LENGTHS = ("length", "lengths", "input_lengths", "x_lengths", "x_lens", "seq_lengths", "src_lengths", "lens")
"""what an array of one number a sample is called that says how many tokens count"""
FIRST = {4: "nchw", 3: "ncl"}
"""number of axes -> the layout with the channels before all other axes of a sample"""
LAST = {4: "nhwc", 3: "nlc"}


def checked(layout: Any) -> str | None:
    """The `layout=` of `hs.wrap` by its one name; SettingError where it is none."""
    if layout is None:
        return None
    if not isinstance(layout, str) or layout.lower() not in LAYOUTS:
        raise SettingError(f"layout={layout!r}; expected one of {', '.join(LAYOUTS)}, or None")
    return LAYOUTS[layout.lower()]


def fitting(layout: str | None, shape: Shape, cut: str) -> str | None:
    """The layout, if it has as many axes as features of `shape` (samples' axis included); else SettingError."""
    if layout is not None and len(layout) != len(shape):
        raise SettingError(
            f"layout={layout!r} has {len(layout)} axes, and the trunk gives {shape} at {cut!r}; layout= is for "
            "maps (nchw, nhwc) and tokens (nlc, ncl)"
        )
    return layout


def mask_of(shapes: Mapping[str, Shape], tokens: int) -> str:
    """The name of the array that says which of so many tokens count, by the shapes of a sample's arrays; ""."""
    return _named(MASKS, shapes, tokens)


def _named(names: Sequence[str], shapes: Mapping[str, Shape], tokens: int) -> str:
    return next((name for name in names if tuple(shapes.get(name, ())) == (tokens,)), "")


def refuse_padding(shapes: Mapping[str, Shape], shape: Shape) -> None:
    """Raise SettingError for a mean over tokens, features of `shape`, of which an array of a sample's, by their
    shapes, says that not all count."""
    if mask := _named(MASKS + DOUBTFUL, shapes, shape[0]):
        raise SettingError(
            f"the trunk gives tokens of shape {shape}, over which a fresh classifier averages, and {mask!r} says "
            "that some are padding: end the module in the mean of those that count, or pass a module as head"
        )


def warn_of_lengths(shapes: Mapping[str, Shape], shape: Shape) -> None:
    """Warn of a mean over tokens, features of `shape`, of which an array of one number a sample may say how many
    count, by the shapes of a sample's arrays."""
    if length := next((name for name in shapes if name.lower() in LENGTHS and shapes[name] in ((), (1,))), ""):
        warnings.warn(
            f"a fresh classifier gets the mean of all {shape[0]} tokens that the trunk gives, and {length!r} is "
            "not looked at: where it says how many count, end the module in the mean of those, or pass a mask, as "
            "`attention_mask`",
            DataWarning,
            stacklevel=4,
        )


def last_only(layout: str | None, home: str) -> None:
    """Of a framework whose modules have the channels last: SettingError for a layout that says otherwise."""
    if layout is not None and layout not in LAST.values():
        raise SettingError(
            f"layout={layout!r} is for torch modules; features of a {home} module have the channels last "
            "(nhwc, nlc). Move them in the module"
        )


def unknown(shape: Shape, cut: str) -> SettingError:
    """Nothing tells where the channels are."""
    return SettingError(
        f"the trunk gives maps of shape {shape[1:]} a sample at {cut!r}, and neither what makes them nor what "
        "takes them says which axis holds the channels, over which a fresh classifier must not average; pass "
        "layout='nchw' or layout='nhwc' to hs.wrap"
    )
