"""What of a model leaves, and what a file says of it, whatever its format: the whole of it, or a trunk or a head,
the names of its outputs, and the texts from which a program can serve it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from headstart.common.errors import SettingError, UnknownNameError
from headstart.common.version import __version__
from headstart.contract.programs import FEATURES, IMAGES, INPUTS, PIXEL_VALUES, SIGMOID, SOFTMAX, Input, Program
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.data.inputs import Arrays
from headstart.data.rows import ALONE
from headstart.graph import Graph, fold, without_denormals, without_inert
from headstart.models.model import Model
from headstart.store.keys import canonical_json, params_digest

WHOLE, TRUNK, HEAD = PARTS = ("whole", "trunk", "head")
NOT_VERIFIED = "not verified"


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a task are called in a file. Each is float32 `(n, classes)`."""

    plain: str
    """the model's own outputs"""
    makes: str | None = None
    """what makes probabilities of them"""
    probable: str | None = None
    """what these are called"""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.plain,) if self.probable is None else (self.plain, self.probable)


OUTPUTS: Mapping[str, Outputs] = {
    SINGLE: Outputs("logits", SOFTMAX, "probabilities"),
    MULTI: Outputs("logits", SIGMOID, "scores"),
    REGRESSION: Outputs("values"),
}
"""task -> its outputs; values are in the targets' own units, as the model gives them"""


class Part(NamedTuple):
    """A model, or what is in front of or behind a cut of it."""

    graph: Graph
    shape: tuple[int, ...]
    """of one sample of what it takes, channels last"""
    weights: Mapping[str, np.ndarray]
    """as the model has them, nothing folded"""
    cut: str
    before: Mapping[str, np.ndarray]
    """of a head: the weights of the trunk in front of it"""


def part_of(model: Model, part: str, cut: str | None, pixels: bool = True) -> Part:
    """`part`: "whole"; "trunk", from the input to the features at the cut; "head", from there to the outputs.
    `cut`: a legal cut; None: the model's own. `pixels`: as of `program`. Raises UnknownNameError, CutError;
    SettingError for a head without pixels."""
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    if part == HEAD and not pixels:
        raise SettingError(
            "pixels=False is about the input of pictures, and part='head' takes features; leave it out"
        )
    whole = model.graph.main
    cut = whole.check_cut(model.default_cut if cut is None else cut)
    if part == HEAD:
        graph, shape = whole.after(cut, model.input_shape), whole.shapes(model.input_shape)[cut]
    else:
        graph, shape = whole.upto(cut) if part == TRUNK else whole, model.input_shape
    before = whole.upto(cut).param_shapes() if part == HEAD else ()
    weights, ahead = ({name: model.params[name] for name in names} for names in (graph.param_shapes(), before))
    return Part(graph, shape, weights, cut, ahead)


def taking_pixels(graph: Graph, model: Model) -> Graph:
    """A graph that takes the model's preprocessed pictures, with what normalises pixels in front."""
    assert not isinstance(model.preprocess, Arrays)
    return graph.normalized(*model.preprocess.affine(), model.preprocess.reverse)


def texts_of(model: Model, part: str, taken: Part, dtype: str = "float32") -> dict[str, str]:
    """What a file says of itself: `classes` and `preprocess` (JSON), `task`, `threshold` of several labels,
    `part`, `cut`, `dtype`, `model`, `weights_digest`, `headstart_version` and `verified`, which is "not verified"
    until somebody says otherwise; of a head also `trunk_digest`, the `weights_digest` of the trunk that goes with
    it."""
    about = {
        "part": part,
        "cut": taken.cut,
        "dtype": dtype,
        "model": model.name,
        "task": model.task,
        "classes": canonical_json(list(model.classes)),
        "preprocess": canonical_json(model.preprocess.as_dict()),
        "weights_digest": params_digest(taken.weights),
        "headstart_version": __version__,
        "verified": NOT_VERIFIED,
    }
    if model.task == MULTI:
        about["threshold"] = canonical_json(model.threshold)
    if part == HEAD:
        about["trunk_digest"] = params_digest(taken.before)
    return about


def folded(part: Part) -> tuple[Graph, dict[str, np.ndarray]]:
    """What a file holds of it: with norms in the layers before them, and without what drops at random or is next
    to nothing."""
    graph, params = fold(without_inert(part.graph), part.weights)
    return graph, without_denormals(graph, params)


def program(
    model: Model, part: str = WHOLE, cut: str | None = None, pixels: bool = True, channels_first: bool = False
) -> tuple[Program, dict[str, str]]:
    """The model, or a part of it, as a backend writes it, and what the file says of itself: `texts_of`, and
    `inputs` (JSON), name -> dtype and shape, "n" for the samples.

    `pixels`: whether it takes uint8 pictures, and normalises them; else they come preprocessed, with
    `channels_first` as `(n, 3, h, w)`. A wrapped module that takes other arrays gets these as they are. Raises
    UnknownNameError, CutError; SettingError for a head without pixels.
    """
    taken = part_of(model, part, cut, pixels)
    graph, params = folded(taken)
    if part == HEAD:
        inputs: tuple[Input, ...] = (Input(FEATURES, taken.shape, "float32"),)
    elif isinstance(model.preprocess, Arrays):
        entries = model.preprocess.entries
        inputs = tuple(Input(INPUTS if name == ALONE else name, shape, dtype) for name, shape, dtype in entries)
    elif pixels:
        graph, inputs = taking_pixels(graph, model), (Input(IMAGES, taken.shape, "uint8"),)
    else:
        height, width, channels = taken.shape
        shape = (channels, height, width) if channels_first else taken.shape
        inputs = (Input(PIXEL_VALUES, shape, "float32"),)
    outputs = {FEATURES: ""}
    if part != TRUNK:
        names = OUTPUTS[model.task]
        outputs = {names.plain: ""}
        if names.probable is not None and names.makes is not None:
            outputs[names.probable] = names.makes
    texts = texts_of(model, part, taken)
    texts["inputs"] = canonical_json({name: [dtype, ["n", *shape]] for name, shape, dtype in inputs})
    by_name = part != HEAD and isinstance(model.preprocess, Arrays) and not model.preprocess.alone
    return Program(graph, params, inputs, by_name, outputs), texts
