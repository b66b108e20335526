"""A user's functional keras.Model as parts of a graph.

A functional model is a graph already; a part is the model between two of its tensors. Invariants: the user's model
and its layers are cloned and never touched, since a layer that is called again remembers it; parameters are named
by their place among the part's weights, because Keras numbers layers anew whenever a model is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import ml_dtypes
import numpy as np

from headstart.backends.keras.arrays import beside, on_host, to_numpy
from headstart.backends.keras.classifier import classifiers
from headstart.backends.keras.configuration import anew, configured
from headstart.backends.keras.copying import (
    called_calmly,
    carry,
    check_clone,
    cloned,
    copied,
    layers_of,
    one_or_all,
    outputs,
    quantized_layer,
    reproducible,
    seeded,
    structure_of,
    tell_of_losses,
    thawed,
    weights_of,
)
from headstart.backends.keras.cuts import (
    Cut,
    at_end,
    check_order,
    check_single,
    chosen,
    is_inside,
    nodes_of,
    numbered,
    paths_of,
    row_at_end,
)
from headstart.backends.keras.door import settled
from headstart.backends.keras.endings import take_off
from headstart.backends.keras.joining import Joined, before_classifiers, read_by, side_by_side
from headstart.backends.keras.layers import keep_statistics, values_of
from headstart.backends.keras.nested import inner_calls, run_to, unfolded
from headstart.backends.keras.scaling import first_factor
from headstart.backends.keras.telling import told
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import BEFORE, END, Witnessed, Wrapping, WrapRequest
from headstart.data import Arrays, Preprocess
from headstart.data.rows import ALONE, count
from headstart.graph import NativePart
from headstart.graph.cuts import BOTH_SIDES
from headstart.models.endings import tell_of_doubted
from headstart.models.feature_layout import last_only
from headstart.models.processors import is_converter, preprocess_of
from headstart.models.several import Entry, entry_of

NUMBERED, UNNAMED = re.compile(r"(?:jax_|nnx_)?variable(?:_\d+)?"), "variable"


HIDDEN = (
    "{} ends in scores of classes that layer {!r} takes or makes, which cannot be looked into, and a fresh head "
    "would stand on these: pass cut=, a layer in front of the classifier, or cut='its end' if they are features"
)


def owns(native: Any) -> bool:
    return isinstance(native, keras.Model)


def inputs(native: keras.Model) -> Preprocess | Arrays | None:
    """What KerasHub's tasks say of images; else the shapes that the model was built for, where they are fixed."""
    converter = getattr(getattr(native, "preprocessor", None), "image_converter", None)
    if is_converter(converter):
        return preprocess_of(converter)
    given = getattr(native, "inputs", None)
    if not given or any(None in x.shape[1:] for x in given):
        return None
    named = {x.name if len(given) > 1 else ALONE: x for x in given}
    kinds = {name: "float32" if "float" in x.dtype else x.dtype for name, x in named.items()}
    return Arrays(tuple((name, tuple(named[name].shape[1:]), kinds[name]) for name in sorted(named)))


def wrap(request: WrapRequest) -> Wrapping:
    last_only(request.layout, "Keras")
    if request.params is not None:
        raise SettingError("params= goes with JAX functions; a keras.Model holds its parameters itself")
    model = copied(request.native)
    _check_keys(request.native)
    _ordered(model, request.example)  # which checks the names
    check_clone(request.native, model, _rows(model, request.example))
    tell_of_losses(model)
    fixed = _fixed(request.native, model)
    samples = count(request.example)
    end, row = _end(model, request, samples)
    model = _giving(model, end)
    shown: dict[str, str] = {}
    ending, numbers = "", "node"
    joins = request.fresh and request.cut is not None and request.cut.startswith(BEFORE)
    if inside := is_inside(model, replace(request, cut=None) if joins else request):
        model, after, shown = unfolded(model, _rows(model, request.example))
        fixed, numbers = frozenset(after[weight] for weight in fixed), "inner node"
    if request.logits:
        model, ending = take_off(model)
    nodes = nodes_of(model, shown)
    paths = paths_of(model, nodes)
    found = classifiers(model, ending)
    if request.fresh and request.cut is None and found.unseen:
        raise CutError(HIDDEN.format(request.native.name, found.unseen))
    if request.fresh and request.cut is None and (found.unnamed or found.doubted):
        what = f"layer {found.unnamed or found.doubted!r}"
        tell_of_doubted(request.native.name, model.outputs[0].shape[-1], what, bool(found.unnamed))
    ends = found.calls if len(model.outputs) == 1 else []
    apart = read_by(nodes, ends)
    somewhere = bool(paths.cuts) or len(apart) > 1 or any(not nodes[cut.node].is_input for cut in apart)
    replaced = request.rest or (request.fresh and bool(found.calls) and somewhere)
    at: Cut | Joined | None = None
    if (request.cut == END and not request.rest) or (request.cut is None and not replaced):
        if len(model.outputs) > 1:
            at = at_end(model, nodes, samples, row)
    elif request.cut is None or (joins and replaced):
        at = before_classifiers(model, nodes, paths, ends, request.fresh, samples)
    if request.cut not in (None, END, at and at.name) or (request.rest and request.cut == END):
        at = chosen(model, nodes, paths, request, samples)
    if at is None:
        stop, cut, place = model.outputs[0], END, END
    else:
        stop, cut, parts = at.of(nodes), at.name, at.parts if isinstance(at, Joined) else (at,)
        for read in parts:
            check_single(nodes, read.node)
        place = ", ".join(read.place(numbers, list(nodes)) for read in parts)
    if not request.rest and not request.logits and getattr(stop, "_keras_mask", None) is not None:
        raise CutError(
            f"{cut!r} gives a mask with its output, which a fresh classifier would not see: padded steps would "
            "count. Cut behind the layer that heeds the mask, or keep the rest of the model as head"
        )
    if request.fresh:
        check_order(stop, cut)
    trunk = keras.Model(_ordered(model, request.example), stop)

    def again(seed: int) -> keras.Model:
        with seeded(seed):
            if request.init is None:
                return _drawn(model)
            fresh = _giving(copied(request.init(seed)), end)
            return unfolded(fresh, _rows(fresh, request.example))[0] if inside else fresh

    def trunk_anew(seed: int) -> keras.Model:
        fresh = again(seed)
        end = fresh.outputs[0] if at is None else at.of(nodes_of(fresh, shown))
        return keras.Model(_ordered(fresh, request.example), end)

    structure, reason = told(trunk)
    part = _part(trunk, request.example, structure, fixed, trunk_anew)
    witness = settled(partial(_witnessed, request.native, at, end))
    made = Wrapping(
        cut,
        place,
        part,
        _params(trunk),
        reason=reason,
        ending=ending,
        witness=witness,
        rescales=first_factor(model),
        token_logits=_logits_of_tokens(model, stop, ends, request) if request.fresh else None,
    )
    if not request.rest:
        return made
    assert at is not None
    behind = at  # of which the type checker knows as much in a lambda
    head = _rest(model, trunk, stop, cut, request.native.name)
    head_part = _part(
        head,
        np.zeros((2, *part.output), np.float32),
        told(head)[0],
        fixed,
        lambda seed: keras.Model(behind.of(nodes_of(fresh := again(seed), shown)), fresh.outputs[0]),
    )
    return replace(made, head=head_part, head_params=_params(head))


def _end(model: keras.Model, request: WrapRequest, samples: int) -> tuple[int | None, Entry]:
    """Which of several outputs of a model is followed to its classifier, or is what its rest gives, by its place;
    None: it gives one, or none of them. And what is taken of them as features where no name tells."""
    if len(model.outputs) == 1 or not (request.rest or request.to_an_end):
        return None, ()
    if not (row := row_at_end(model, samples)):
        return None, ()
    tensor = entry_of(structure_of(model), row)
    place = next(place for place, output in enumerate(model.outputs) if output is tensor)
    if not request.rest and request.cut != END:
        found = classifiers(_giving(model, place))
        if found.calls or found.unseen:
            return place, row
    return (place if request.rest else None), row


def _giving(model: keras.Model, end: int | None) -> keras.Model:
    """The model, of its outputs with that one alone."""
    return model if end is None else keras.Model(model.inputs, model.outputs[end], name=model.name)


def _rest(model: keras.Model, trunk: keras.Model, stop: Any, cut: str, name: str) -> keras.Model:
    """What is behind the cut, whose tensor is `stop`, as a head; CutError or SettingError where that can be none.
    `name`: what the user calls the model."""
    if len(model.outputs) != 1:
        raise SettingError(
            f"{name} has {len(model.outputs)} outputs, so its rest is no head; head='linear' makes a fresh "
            "classifier behind the cut"
        )
    head = keras.Model(stop, model.outputs[0])
    ours = {id(weight) for weight in trunk.weights}
    if shared := [layer.name for layer in head.layers if any(id(weight) in ours for weight in layer.weights)]:
        raise CutError(BOTH_SIDES.format("layer", shared[0], cut))
    if quantized := quantized_layer(head):
        raise SettingError(
            f"layer {quantized} behind the cut {cut!r} is quantized, so the rest as head could not be trained; "
            "head='linear' makes a fresh classifier. Or wrap the model before model.quantize()"
        )
    return head


def _logits_of_tokens(
    model: keras.Model, cut: Any, ends: Sequence[Any], request: WrapRequest
) -> np.ndarray | None:
    """What the one classifier that was found makes of every token, if it reads those at the cut."""
    if len(ends) != 1 or len(cut.shape) != 3 or not any(tensor is cut for tensor in ends[0].input_tensors):
        return None
    logits = outputs(keras.Model(one_or_all(model.inputs), ends[0].outputs[0]), _rows(model, request.example))[0]
    return logits.astype(np.float32) if logits.ndim == 3 else None


def attempt(native: keras.Model, example: Any) -> None:
    """Run the user's model itself."""
    outputs(native, _rows(native, example))


def _witnessed(native: keras.Model, cut: Cut | Joined | None, place: int | None, batch: Any) -> Witnessed:
    """What the user's model itself gives; a cut of None is its end. `place`: of the output that is its end."""
    with beside(native):
        return _given(native, cut, place, _rows(native, batch))


def _given(native: keras.Model, cut: Cut | Joined | None, place: int | None, rows: list[Any]) -> Witnessed:
    ends = outputs(native, rows)
    end = ends[place or 0] if len(ends) == 1 or place is not None else None
    if cut is None:
        return Witnessed(ends[place or 0], end, _rounding(native))
    # a view of the same layers: none of them is called again
    whole = keras.Model(one_or_all(native.inputs), one_or_all(native.outputs))
    nodes = nodes_of(whole)

    def given(part: Cut) -> np.ndarray:
        chain = (nodes[part.node],) if part.node in nodes else numbered(inner_calls(whole))[part.node]
        return run_to(whole, chain, part.index, rows)

    value = given(cut) if isinstance(cut, Cut) else side_by_side([given(part) for part in cut.parts])
    return Witnessed(value, end, _rounding(native))


def _rounding(model: keras.Model) -> float:
    kinds = {str(layer.compute_dtype) for layer in layers_of(model)}
    return float(max(ml_dtypes.finfo(kind).eps for kind in {"float32", *kinds} if "float" in kind))


def _fixed(model: keras.Model, copy: keras.Model) -> frozenset[int]:
    """The weights of the copy, by identity, that their owner has frozen in the model."""
    trained = {id(weight) for weight in model.trainable_weights}
    pairs = zip(weights_of(model), weights_of(copy), strict=True)
    ours = {id(weight) for weight in copy.trainable_weights}
    return frozenset(id(copied) for own, copied in pairs if id(own) not in trained and id(copied) in ours)


def _drawn(model: keras.Model) -> keras.Model:
    """The model with weights drawn anew, and with the tables and statistics that were adapted to data."""
    if quantized := quantized_layer(model):
        raise SettingError(
            f"layer {quantized} is quantized, so its weights cannot be drawn anew; wrap the model before "
            "model.quantize()"
        )
    clone = cloned(model, anew)
    carry(model, clone)
    return clone


# ---- what runs


OTHER = ("float16", "bfloat16", "float64")


def build(
    part: NativePart, name: str, dtype: str, frozen_statistics: bool, seed: int, learns: bool
) -> keras.Model:
    """A model of its own for a part, called `name`, whose parameters are still to be given; then `settle` it."""
    part.require("keras")

    def layer(old: Any) -> Any:
        if not isinstance(old, keras.layers.Layer) or isinstance(old, keras.layers.Lambda):
            return anew(old)
        changes = old.dtype_policy.name == "float32" or (learns and old.dtype_policy.name in OTHER)
        return configured(type(old), old, **({"dtype": dtype} if changes else {}))

    with seeded(seed):
        clone = thawed(cloned(part.native, layer, called_calmly))
    carry(part.native, clone)
    reproducible(clone)
    if frozen_statistics:
        for clone_layer in layers_of(clone):
            keep_statistics(clone_layer)
    return keras.Model(one_or_all(clone.inputs), clone.outputs[0], name=name)


def view(part: NativePart, name: str) -> keras.Model:
    """A part as it is, called `name`: the same layers, none of which is called again."""
    part.require("keras")
    return keras.Model(one_or_all(part.native.inputs), part.native.outputs[0], name=name)


def call(model: keras.Model, x: Any) -> Any:
    """The model on a tensor, or on a dict of tensors by its inputs' names."""
    return model(one_or_all([x[name] for name in sorted(x)]) if isinstance(x, dict) else x)


# ---- what it takes


def _check_keys(native: keras.Model) -> None:
    """SettingError for a model of a dict of inputs whose keys are the names of other inputs: an array of such a
    name could be meant for either."""
    form = getattr(native, "_inputs_struct", None)
    called = {key: getattr(x, "name", key) for key, x in form.items()} if isinstance(form, dict) else {}
    if mixed := sorted(key for key, name in called.items() if name != key and key in called.values()):
        raise SettingError(
            f"under {mixed[0]!r} the model takes an input that is called {called[mixed[0]]!r}, and another input "
            f"is called {mixed[0]!r}: give each keras.Input the name of its key"
        )


def _ordered(model: keras.Model, example: Any) -> Any:
    """The inputs in the order in which `call` gives them."""
    if not isinstance(example, dict):
        if len(model.inputs) != 1:
            names = [x.name for x in model.inputs]
            raise SettingError(f"the model takes {len(names)} inputs: pass a dict of arrays called {names}")
        return model.inputs[0]
    named = {x.name: x for x in model.inputs}
    if named.keys() != example.keys():
        raise SettingError(f"the model's inputs are called {sorted(named)}, and the arrays {sorted(example)}")
    return [named[name] for name in sorted(named)]


# ---- making parts


def _rows(model: keras.Model, example: Any) -> list[Any]:
    """The example in the order of the model's inputs."""
    return [example[x.name] for x in model.inputs] if isinstance(example, dict) else [example]


def _run(model: keras.Model, example: Any) -> np.ndarray:
    output = outputs(model, _rows(model, example))[0]
    if "float" not in output.dtype.name:
        raise CutError(
            f"the part gives {output.dtype.name} of shape {output.shape} for two samples; expected floating-point "
            "numbers: features are stored, and trained on, as such. Cut it elsewhere"
        )
    return output.astype(np.float32)


def _part(
    model: keras.Model,
    example: Any,
    structure: Any,
    fixed: frozenset[int],
    fresh: Callable[[int], keras.Model],
) -> NativePart:
    output = _run(model, example)
    if output.ndim < 2 or len(output) != 2:
        raise CutError(f"the part gives {output.shape} for two samples; expected a row for each. Cut elsewhere")
    names = weight_names(model)
    trained = {id(weight) for weight in model.trainable_weights}
    return NativePart(
        "keras",
        model,
        _entries(model, example),
        tuple(output.shape[1:]),
        {name: tuple(weight.shape) for name, weight in zip(names, model.weights, strict=True)},
        frozenset(name for name, w in zip(names, model.weights, strict=True) if id(w) not in trained),
        structure,
        settled(on_host(lambda seed: _params(fresh(seed)))),
        frozenset(name for name, w in zip(names, model.weights, strict=True) if id(w) in fixed),
        rounding=_rounding(model),
        norms=_norms(model, fixed),
    )


def _norms(model: keras.Model, fixed: frozenset[int]) -> dict[str, int]:
    """Its batch norms, but for those that their owner froze -> how many numbers of a channel one sample has
    there."""
    found: dict[str, int] = {}
    for layer in layers_of(model):
        frozen = layer.trainable_weights and all(id(weight) in fixed for weight in layer.trainable_weights)
        if not frozen and (count := values_of(layer)) is not None:
            found[layer.name] = count
    return found


def _entries(model: keras.Model, example: Any) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """What the part takes, in the dtypes of the model: integers of another width are converted by it."""
    kinds = {x.name: x.dtype for x in model.inputs}
    alone = model.inputs[0].dtype
    return tuple((name, shape, kinds.get(name, alone)) for name, shape, _ in Arrays.like(example).entries)


def weight_names(model: keras.Model) -> list[str]:
    """A name for each of the model's weights: its place, and what it is in its layer."""
    return [f"{place}.{_weight_name(weight)}" for place, weight in enumerate(model.weights)]


def _weight_name(weight: keras.Variable) -> str:
    """What its layer calls it. One that was given no name Keras calls by its class and a number, anew in every
    copy."""
    return UNNAMED if NUMBERED.fullmatch(weight.name) else str(weight.name)


def _params(model: keras.Model) -> dict[str, np.ndarray]:
    found = {}
    for name, weight in zip(weight_names(model), model.weights, strict=True):
        found[name] = np.array(to_numpy(keras.ops.copy(weight.value)))
        found[name].flags.writeable = False
    return found
