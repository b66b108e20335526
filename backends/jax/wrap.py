"""A user's flax NNX module, or pair of JAX functions, as parts of a graph.

JAX sees a program only as it runs, with shapes filled in, so there is no graph to be cut at leisure. A pair of
functions is cut between the two, an nnx.Sequential between its layers; any other module is run and stopped at a
submodule, and has no rest. What a part computes is told by sources and settings, not by a jaxpr, whose text and
primitives change from one version of JAX to the next.

Invariants: the module is cloned and never touched; parameters are named by their paths.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.jax import linen
from headstart.backends.jax.classifier import Behind, classifier_of, classifier_place, watched
from headstart.backends.jax.door import as_its_owner
from headstart.backends.jax.following import part_of
from headstart.backends.jax.joining import noting, read_by, reading_of
from headstart.backends.jax.others import is_pytree, refuse
from headstart.backends.jax.parts import (
    PRUNED,
    Function,
    Path,
    Whole,
    calling,
    copied,
    features_of,
    joined,
    narrow,
    output_of,
    outputs_of,
    prune,
    step,
    stopping,
    uncompiled,
    variables,
)
from headstart.backends.jax.telling import LIBRARIES, told
from headstart.backends.jax.traced import compilable
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import BEFORE, END, Witnessed, Wrapping, WrapRequest
from headstart.data.rows import count
from headstart.graph import NativePart
from headstart.graph.cuts import Paths
from headstart.models.endings import is_projection
from headstart.models.feature_layout import last_only
from headstart.models.several import TOKENS, Entry, arrays, at_end, by_name, dotted, entry_in, is_class_token
from headstart.models.structure import Structure

INPUT, OUTPUT = "input", "output"
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
    with compilable("a function" if _is_pair(request.native) else _called(request.native)):
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


def _called(module: nnx.Module) -> str:
    return type(module.module if isinstance(module, linen.Bridged) else module).__name__


def _cut(request: WrapRequest) -> Wrapping:
    if _is_pair(request.native):
        return _functions(request)
    if request.params is not None:
        raise SettingError("params= goes with JAX functions; an NNX module holds its parameters itself")
    layers = isinstance(request.native, nnx.Sequential) and str(request.cut).removeprefix("layers.").isdigit()
    replaced = request.fresh and request.cut is None and type(request.native) is nnx.Sequential
    if replaced and len(request.native.layers) > 1:
        layers = layers or classifier_place(list(request.native.layers), Behind()) is not None
    return _sequential(request) if request.rest or layers else _module(request)


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
        value = functions[0](request.params[0], _put(batch))
        end = functions[1](request.params[1], value) if request.rest else None
        return _witnessed(value, end, *parts)

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
    if not isinstance(request.native, nnx.Sequential):
        raise CutError(
            f"of {_called(request.native)}, the rest behind a cut cannot be had, as of an nnx.Sequential or "
            "two JAX functions; pass head='linear', a list of hidden widths such as [256], or a module"
        )
    module, ending = narrow(copied(request.native)), ""
    if request.logits:
        module, ending = _without_ending(module)
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
        structure, reason = told(lambda teller: ["sequential", *map(teller.value, layers[start:stop])])

        def fresh(seed: int) -> nnx.Module:
            assert request.init is not None
            return slice(narrow(copied(request.init(seed))), start, stop)

        return *part_of(request, some, named, example, structure, fresh), reason

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        whole = copied(request.native)
        return _witnessed(slice(whole, 0, end)(_put(batch)), whole(_put(batch)), *parts)

    trunk, params, reason = part(0, end, request.example)
    parts.append(trunk)
    if not request.rest:
        return Wrapping(cut, cut, trunk, params, reason=reason, witness=witness)
    head, head_params, _ = part(end, len(layers), features_of(trunk))
    parts.append(head)
    return Wrapping(cut, cut, trunk, params, head, head_params, reason, ending, witness)


ENDINGS = ("softmax", "log_softmax", "sigmoid")


def _without_ending(module: nnx.Module) -> tuple[nnx.Module, str]:
    """An nnx.Sequential without what makes probabilities at its end, and what that was."""
    if type(module) is not nnx.Sequential or len(module.layers) < 2:
        return module, ""
    *layers, last = module.layers
    if isinstance(last, functools.partial):
        last = last.func if not last.args and last.keywords in ({}, {"axis": -1}, {"axis": 1}) else None
    name = str(getattr(last, "__name__", ""))
    if name not in ENDINGS or str(getattr(last, "__module__", "")).partition(".")[0] not in LIBRARIES:
        return module, ""
    return nnx.Sequential(*layers), name


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


def _module(request: WrapRequest) -> Wrapping:
    """A module as it is, all of it or up to a submodule."""
    module, ending = narrow(copied(request.native)), ""
    if request.logits:
        module, ending = _without_ending(module)
    by_name = _takes_names(module, request.example)
    cut, before, wanted = request.cut, False, ""
    at: Sequence[str] = ()  # the submodule at which a run stops, or several classifiers before which it does
    if cut == END:
        cut = None
    elif cut is not None and cut.startswith(BEFORE):
        at, before = cut.removeprefix(BEFORE).split(", "), True
    elif cut is not None:
        there, wanted = _place_of(cut, module, by_name, request.example)
        at = [] if there is None else [there]
    elif request.fresh:

        def watching(x: Any) -> Any:
            if isinstance(module, linen.Bridged):
                return linen.watched(lambda: Whole(nnx.clone(module), by_name, False).given(x))
            return watched(uncompiled(nnx.clone(module)), lambda clone: Whole(clone, by_name, False).given(x))

        at, inside, matrices = classifier_of(watching, request.example, ending)
        if inside:
            raise CutError(HIDDEN.format(_called(module), ", ".join(at)))
        if own := [name for name in _names_of(module, matrices) if not is_projection(name)]:
            raise CutError(OWN.format(_called(module), own[0]))
        cut, before = (f"{BEFORE}{', '.join(at)}", True) if at else (None, False)
    structure, reason = told(lambda teller: [cut, by_name, teller.value(module)])
    if at:
        _check_called_once(module, at, by_name, request.example)
    _stop(module, at, by_name, request.example, before)
    whole = Whole(module, by_name, bool(at))
    if not before:
        whole.entry = _entry(whole, request.example, wanted, repr(at[0]) if at else _called(module))
    by_itself = request.fresh and whole.entry == (TOKENS,) and not wanted
    if by_itself and output_of(whole, request.example).ndim == 3:
        whole.first = any(map(is_class_token, _names(module).values()))
    if whole.entry and not at and not whole.first:  # of which the cut by that name would be all tokens
        cut = dotted(whole.entry)
    if whole.entry and structure is not None:
        structure = Structure.of([structure, list(whole.entry), whole.first], structure.lookups)
    if at:
        prune(whole, request.example)

    def fresh(seed: int) -> nnx.Module:
        assert request.init is not None
        return Whole(narrow(copied(request.init(seed))), by_name, False)

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        upto = copied(request.native)
        value = Whole(upto, by_name, False).given(_put(batch))
        _stop(upto, at, by_name, batch, before)
        original = Whole(upto, by_name, bool(at))
        original.entry, original.first = whole.entry, whole.first
        return _witnessed(original(_put(batch)), at_end(value, jax.Array), part)

    names, found = _names(module), variables(whole)
    named = {path: names[path[1:]] for path, variable in found.items() if variable.shape != PRUNED}
    part, params = part_of(request, whole, named, request.example, structure, fresh)
    place = cut or END
    return Wrapping(place, place, part, params, reason=reason, ending=ending, witness=witness)


def _entry(whole: Whole, example: Any, wanted: str, where: str) -> Entry:
    """Which of several arrays the module gives as features."""
    value = outputs_of(whole, example)
    if isinstance(value, jax.Array):
        return ()
    shapes = {
        entry: tuple(x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else ()
        for entry, x in arrays(value, jax.Array)
    }
    return entry_in(shapes, wanted, count(example), where, type(value).__name__, "array")


def _names(module: nnx.Module) -> dict[Path, str]:
    """Path of a variable -> what it is called."""
    if isinstance(module, linen.Bridged):
        return {path: module.names[path[1]] for path in variables(module)}
    return {path: joined(path) for path in variables(module)}


def _names_of(module: nnx.Module, matrices: Sequence[jax.Array]) -> list[str]:
    """What parameters with these values are called."""
    names = _names(module)
    return [
        names[path]
        for path, variable in variables(module).items()
        if isinstance(variable, nnx.Param)
        for matrix in matrices
        if variable.shape == matrix.shape and np.array_equal(variable[...], matrix)
    ]


def _submodules(module: nnx.Module, by_name: bool, example: Any) -> dict[str, nnx.Module]:
    """Path -> what in a module can be called; a linen module knows when it runs."""
    if isinstance(module, linen.Bridged):
        whole = Whole(module, by_name, False)
        return dict.fromkeys((path for path, *_ in linen.calls(lambda: outputs_of(whole, example))), module)
    return {joined(path): layer for path, layer in nnx.iter_modules(module) if path and callable(layer)}


def _place_of(cut: str, module: nnx.Module, by_name: bool, example: Any) -> tuple[str | None, str]:
    """The submodule that a cut means, None for the module itself, and the name of the one that is meant of several
    arrays that it gives, "" where none is named. CutError with near names where there is no such thing."""
    submodules = _submodules(module, by_name, example)
    if cut in submodules:
        return cut, ""
    parts = cut.split(".")
    at = next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in submodules), None)
    several = nnx.clone(module)
    if at is not None:
        _stop(several, [at], by_name, example)
    value = outputs_of(Whole(several, by_name, at is not None), example)
    wanted = cut if at is None else cut.removeprefix(f"{at}.")
    there = {dotted(entry) for entry, _ in arrays(value, jax.Array)} - {""}
    if there and (at is not None or any(name == wanted or name.startswith(f"{wanted}.") for name in there)):
        return at, wanted
    raise _no_such(cut, submodules)


def _no_such(cut: str, submodules: Mapping[str, Any]) -> CutError:
    """That there is no such place, with those that are near."""
    taken = {name: (before,) for before, name in itertools.pairwise((INPUT, *submodules, OUTPUT))}
    try:
        Paths({INPUT: (), **taken}, OUTPUT).check(cut)
    except CutError as error:
        return error
    return CutError(f"cut={cut!r}: nothing can be called there")


def _calls_of(module: nnx.Module, paths: Sequence[str], by_name: bool, example: Any) -> list[tuple[str, Any, Any]]:
    """Of each call of the submodules at these paths in a run of the module: its path, what it takes and gives."""
    calls: list[tuple[str, Any, Any]] = []
    clone = uncompiled(nnx.clone(module))
    there = _submodules(clone, by_name, example)
    submodules = {path: there[path] for path in paths if path in there}
    if not submodules:
        return calls

    def run() -> Any:
        return outputs_of(Whole(clone, by_name, False), example)

    if isinstance(clone, linen.Bridged):
        return [call for call in linen.calls(run) if call[0] in submodules]
    noting(submodules, lambda *call: calls.append(call))
    run()
    return calls


def _check_called_once(module: nnx.Module, at: Sequence[str], by_name: bool, example: Any) -> None:
    times = Counter(path for path, *_ in _calls_of(module, at, by_name, example))
    if (cut := next((path for path in at if times[path] > 1), None)) is not None:
        raise CutError(
            f"{cut!r} is called {times[cut]} times, so it cannot be cut at; cut outside of it, or let a "
            "submodule of its own do what is done with it up to the cut"
        )


OWN = (
    "{} ends in a product of its own with {!r}, in none of its submodules, and nothing can be cut off before it. "
    "Give it a submodule (nnx.Linear, linen.Dense) there, or pass cut=, a submodule before it, or cut='its end' "
    "for a fresh head behind what it gives"
)
HIDDEN = (
    "{} ends in a classifier, {!r}, inside of what JAX transforms as one thing (jit, remat, scan, vmap ...), "
    "where nothing can be cut off before it. Pass the module made without that (jit and remat change no "
    "parameter), or cut='its end' for a fresh head behind what the classifier gives"
)


def _stop(module: nnx.Module, at: Sequence[str], by_name: bool, example: Any, before: bool = False) -> None:
    """Let a call of the module end with what its submodule at the cut gives, or takes; of several, with what all
    of them take, side by side."""
    submodules = _submodules(module, by_name, example) if at else {}
    if missing := [path for path in at if path not in submodules]:
        raise _no_such(missing[0], submodules)
    if len(at) > 1:
        _stop_before_several(module, {path: submodules[path] for path in at}, by_name, example)
        return
    if at and isinstance(module, linen.Bridged):
        module.cut, module.before = at[0], before
    elif at:
        uncompiled(module)
        stop: Any = submodules[at[0]]
        object.__setattr__(stop, "__class__", stopping(type(stop), before))  # type: ignore[arg-type]


def _stop_before_several(
    module: nnx.Module, submodules: Mapping[str, nnx.Module], by_name: bool, example: Any
) -> None:
    """Let a call of the module end with what these submodules take, side by side. CutError where they cannot."""
    calls = _calls_of(module, [*submodules], by_name, example)
    reading = reading_of(calls, [*submodules], _called(module), example)
    if isinstance(module, linen.Bridged):
        module.reading = reading
    else:
        uncompiled(module)
        read_by(submodules, reading)


def _put(batch: Any) -> Any:
    return jax.tree.map(jnp.asarray, batch)


def _array(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else None


def _witnessed(cut: Any, end: Any, *parts: NativePart) -> Witnessed:
    arrays = [None if _array(output) is None else np.asarray(output, np.float32) for output in (cut, end)]
    return Witnessed(arrays[0], arrays[1], max(part.rounding for part in parts))


def _takes_names(module: nnx.Module, example: Any) -> bool:
    """Whether the module's own arguments have the names of a dict's arrays; else it takes the dict."""
    if not isinstance(example, dict):
        return False
    arguments = inspect.signature(calling(module)).parameters
    return by_name(arguments, example)


def attempt(native: Any, example: Any) -> None:
    """Run the user's module, on shapes: it says as much of what cannot be run."""
    # without parameters; they are not copied, so it is they that failed
    if _is_pair(native) or linen.is_linen(native):
        raise SettingError("it fails as it is")
    module = copied(native)
    rows = jax.tree.map(jnp.asarray, example)
    outputs_of(Whole(module, _takes_names(module, example), False), rows)
