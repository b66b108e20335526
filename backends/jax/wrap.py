"""A user's flax NNX module, or pair of JAX functions, as parts of a graph.

JAX sees a program only as it runs, with shapes filled in, so there is no graph to be cut at leisure. A pair of
functions is cut between the two, an nnx.Sequential between its layers; any other module is run and stopped at a
submodule, and its rest is run from there. What a part computes is told by sources and settings, not by a jaxpr,
whose text and primitives change from one version of JAX to the next.

Invariants: the module is cloned and never touched; parameters are named by their paths.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.jax import linen
from headstart.backends.jax.classifier import Behind, classifier_place
from headstart.backends.jax.door import as_its_owner
from headstart.backends.jax.following import part_of
from headstart.backends.jax.others import is_pytree, refuse
from headstart.backends.jax.parts import (
    Function,
    Whole,
    copied,
    features_of,
    joined,
    narrow,
    outputs_of,
    step,
    variables,
)
from headstart.backends.jax.rest import with_rest
from headstart.backends.jax.submodules import (
    called,
    put,
    takes_names,
    up_to_submodule,
    without_ending,
    witnessed,
)
from headstart.backends.jax.telling import told
from headstart.backends.jax.traced import compilable
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import END, Witnessed, Wrapping, WrapRequest
from headstart.graph import NativePart
from headstart.graph.cuts import INPUT, Paths
from headstart.models.feature_layout import last_only

BETWEEN = "between the functions"


def owns(native: Any) -> bool:
    return isinstance(native, nnx.Module) or _is_pair(native) or linen.is_linen(native) or is_pytree(native)


def _is_pair(native: Any) -> bool:
    if not isinstance(native, list | tuple) or len(native) != 2:
        return False
    trunk, head = native
    return _is_function(trunk) and (head is None or _is_function(head))


def _is_function(value: Any) -> bool:
    """Also one some of whose arguments were given already, as `functools.partial(module.apply, train=False)`."""
    while isinstance(value, functools.partial):
        value = value.func
    return inspect.isroutine(inspect.unwrap(value))


def wrap(request: WrapRequest) -> Wrapping:
    last_only(request.layout, "JAX")
    if not isinstance(request.native, nnx.Module) and not linen.is_linen(request.native):
        refuse(request.native)
    if not _is_pair(request.native) and not callable(request.native):
        raise SettingError(NO_CALL.format(type(request.native).__name__))
    if linen.is_linen(request.native):
        request = _bridging(request)
    with compilable("a function" if _is_pair(request.native) else called(request.native)):
        return _cut(request)


NO_CALL = (
    "{} has no __call__, only methods. Wrap a module of yours whose __call__ calls the one that gives the "
    "features; of a flax.linen module: hs.wrap((lambda p, x: module.apply(p, x, method='encode'), None), "
    "params=(variables, None), head='linear', classes=...)"
)


def _bridging(request: WrapRequest) -> WrapRequest:
    """The request, of a flax.linen module and its variables in one."""
    module, init = request.native, request.init

    def drawn(seed: int) -> linen.Bridged:
        assert init is not None
        made = init(seed)
        return linen.bridged(made, None) if linen.is_linen(made) else linen.bridged(module, made)

    bridged = linen.bridged(module, request.params)
    return replace(request, native=bridged, params=None, init=None if init is None else drawn)


def _cut(request: WrapRequest) -> Wrapping:
    if _is_pair(request.native):
        return _functions(request)
    if request.params is not None:
        raise SettingError("params= goes with JAX functions; an NNX module holds its parameters itself")
    sequential = isinstance(request.native, nnx.Sequential)
    layers = sequential and str(request.cut).removeprefix("layers.").isdigit()
    replaced = request.fresh and request.cut is None and type(request.native) is nnx.Sequential
    if replaced and len(request.native.layers) > 1:
        layers = layers or classifier_place(list(request.native.layers), Behind()) is not None
    if layers or (request.rest and sequential and request.cut is None):
        return _sequential(request)
    return with_rest(request) if request.rest else up_to_submodule(request)


# ---- ways to cut


def _functions(request: WrapRequest) -> Wrapping:
    functions = request.native
    parts: list[NativePart] = []
    if request.cut not in (None, BETWEEN if request.rest else END):
        raise CutError(f"cut={request.cut!r}: two functions are cut between them, and nowhere else")
    if not isinstance(request.params, list | tuple) or len(request.params) != 2:
        raise SettingError("two JAX functions need params=(trunk_params, head_params), any pytrees of arrays")

    def part(place: int, example: Any) -> tuple[NativePart, dict[str, np.ndarray], str]:
        function, params = functions[place], request.params[place]
        module = Function(function, params)
        names = [joined(map(step, path)) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        named = {path: names[path[1]] for path in variables(module)}

        def fresh(seed: int) -> nnx.Module:
            assert request.init is not None
            return Function(function, request.init(seed)[place])

        structure, reason = told(lambda teller: teller.value(function))
        return *part_of(request, module, named, example, structure, fresh), reason

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        value = functions[0](request.params[0], put(batch))
        end = functions[1](request.params[1], value) if request.rest else None
        return witnessed(value, end, *parts)

    trunk, params, reason = part(0, request.example)
    parts.append(trunk)
    if not request.rest:
        return Wrapping(END, END, trunk, params, reason=reason, witness=witness)
    if functions[1] is None:
        raise SettingError("the pair has no second function; head='linear' makes a classifier behind the first")
    head, head_params, _ = part(1, features_of(trunk))
    parts.append(head)
    return Wrapping(BETWEEN, "functions", trunk, params, head, head_params, reason, "", witness)


def _sequential(request: WrapRequest) -> Wrapping:
    """Between two layers of an nnx.Sequential."""
    module, ending = narrow(copied(request.native)), ""
    if request.logits:
        module, ending = without_ending(module)
    layers = list(module.layers)
    names = [f"layers.{place}" for place in range(len(layers))]
    taken = {INPUT: ()} | {name: (before,) for before, name in itertools.pairwise((INPUT, *names))}
    paths = Paths(taken, names[-1], {str(place): name for place, name in enumerate(names)})
    cut = _before_classifier(layers, ending) if request.cut is None else paths.resolve(request.cut)
    if request.rest or cut != names[-1]:
        cut = paths.check(cut)
    end = names.index(cut) + 1
    parts: list[NativePart] = []

    def slice(whole: nnx.Module, start: int, stop: int) -> nnx.Module:
        return nnx.Sequential(*list(whole.layers)[start:stop])

    def part(start: int, stop: int, example: Any) -> tuple[NativePart, dict[str, np.ndarray], str]:
        some = slice(module, start, stop)
        named = {path: joined(("layers", path[1] + start, *path[2:])) for path in variables(some)}
        structure, reason = told(lambda teller: ["sequential", *map(teller.value, layers[start:stop])], some)

        def fresh(seed: int) -> nnx.Module:
            assert request.init is not None
            return slice(narrow(copied(request.init(seed))), start, stop)

        return *part_of(request, some, named, example, structure, fresh), reason

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        whole = copied(request.native)
        return witnessed(slice(whole, 0, end)(put(batch)), whole(put(batch)), *parts)

    trunk, params, reason = part(0, end, request.example)
    parts.append(trunk)
    if not request.rest:
        return Wrapping(cut, cut, trunk, params, reason=reason, witness=witness)
    head, head_params, _ = part(end, len(layers), features_of(trunk))
    parts.append(head)
    return Wrapping(cut, cut, trunk, params, head, head_params, reason, ending, witness)


def _before_classifier(layers: list[Any], ending: str) -> str:
    trained = [place for place, layer in enumerate(layers) if isinstance(layer, nnx.Module) and _has_params(layer)]
    place = classifier_place(layers, Behind(ending)) if layers else None
    end = max(trained, default=0) if place is None else place
    while end > 1 and isinstance(layers[end - 1], nnx.Dropout):
        end -= 1
    if not end:
        raise CutError("the nnx.Sequential has no place before its last layer where it can be cut")
    return f"layers.{end - 1}"


def _has_params(module: nnx.Module) -> bool:
    return any(isinstance(variable, nnx.Param) for variable in variables(module).values())


def attempt(native: Any, example: Any) -> None:
    """Run the user's module, on shapes: it says as much of what cannot be run."""
    # without parameters; they are not copied, so it is they that failed
    if _is_pair(native) or linen.is_linen(native):
        raise SettingError("it fails as it is")
    module = copied(native)
    rows = jax.tree.map(jnp.asarray, example)
    outputs_of(Whole(module, takes_names(module, example), False), rows)
