"""A user's NNX or linen module as a trunk: as it is, or stopped at a submodule, or before its classifier.

Invariant: the module is cloned and never touched.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.jax import linen
from headstart.backends.jax.classifier import classifier_of, watched
from headstart.backends.jax.door import as_its_owner
from headstart.backends.jax.doubted import product_of
from headstart.backends.jax.following import part_of
from headstart.backends.jax.joining import noting, read_by, reading_of
from headstart.backends.jax.parts import (
    PRUNED,
    Path,
    Whole,
    calling,
    copied,
    joined,
    narrow,
    output_of,
    outputs_of,
    prune,
    stopping,
    uncompiled,
    variables,
)
from headstart.backends.jax.programs import feeds
from headstart.backends.jax.telling import LIBRARIES, told
from headstart.common.errors import CutError
from headstart.contract.wrapping import BEFORE, END, Witnessed, Wrapping, WrapRequest
from headstart.data.rows import count, with_one_more
from headstart.graph import NativePart
from headstart.graph.cuts import Paths
from headstart.models.endings import doubted, is_projection, tell_of_doubted
from headstart.models.several import (
    TOKENS,
    Entry,
    arrays,
    at_end,
    by_name,
    dotted,
    entry_in,
    entry_of,
    following,
    is_class_token,
    row_of,
    tell_row,
)

Calls = list[tuple[str, Any, Any]]


def called(module: nnx.Module) -> str:
    return type(module.module if isinstance(module, linen.Bridged) else module).__name__


ENDINGS = ("softmax", "log_softmax", "sigmoid")


def without_ending(module: nnx.Module) -> tuple[nnx.Module, str]:
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


def up_to_submodule(request: WrapRequest, row: Entry | None = None) -> Wrapping:
    """A module as it is, all of it or up to a submodule. `row`: see `row_at_end`, where that is known."""
    module, ending = narrow(copied(request.native)), ""
    if request.logits:
        module, ending = without_ending(module)
    by_name = takes_names(module, request.example)
    if row is None:
        row = row_at_end(module, by_name, request.example) if request.to_an_end else ()
    cut, before, wanted = request.cut, False, ""
    at: Sequence[str] = ()  # the submodule at which a run stops, or several classifiers before which it does
    if cut == END:
        cut = None
    elif cut is not None and cut.startswith(BEFORE):
        at, before = cut.removeprefix(BEFORE).split(", "), True
    elif cut is not None:
        there, wanted = place_of(cut, module, by_name, request.example)
        at = [] if there is None else [there]
    elif request.fresh:
        at = classifiers_of(module, by_name, request.example, ending, row)
        cut, before = (f"{BEFORE}{', '.join(at)}", True) if at else (None, False)
        if not at:
            _tell_of_doubted(module, watching(module, by_name, row), request.example)
    structure, reason = told(lambda teller: [cut, by_name, teller.value(module)], module)
    if at:
        check_called_once(module, at, by_name, request.example)
    stop(module, at, by_name, request.example, before)
    whole = Whole(module, by_name, bool(at))
    if not before:
        whole.entry = _entry(whole, request.example, wanted, repr(at[0]) if at else called(module), row)
    by_itself = request.fresh and whole.entry == (TOKENS,) and not wanted
    if by_itself and output_of(whole, request.example).ndim == 3:
        whole.first = any(map(is_class_token, names_of(module).values()))
    if whole.entry and not at and not whole.first:  # of which the cut by that name would be all tokens
        cut = dotted(whole.entry)
    if whole.entry and structure is not None:
        structure = structure.extended([list(whole.entry), whole.first])
    if at:
        prune(whole, request.example)

    def fresh(seed: int) -> nnx.Module:
        assert request.init is not None
        return Whole(narrow(copied(request.init(seed))), by_name, False)

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        upto = copied(request.native)
        value = Whole(upto, by_name, False).given(put(batch))
        stop(upto, at, by_name, batch, before)
        original = Whole(upto, by_name, bool(at))
        original.entry, original.first = whole.entry, whole.first
        return witnessed(original(put(batch)), at_end(value, jax.Array, row), part)

    names, found = names_of(module), variables(whole)
    named = {path: names[path[1:]] for path, variable in found.items() if variable.shape != PRUNED}
    part, params = part_of(request, whole, named, request.example, structure, fresh)
    place, logits = cut or END, None
    if request.fresh and before and len(at) == 1 and len(part.output) == 2:
        ((_, _, logits),) = called_on(narrow(copied(request.native)), at, by_name, put(request.example))[0]
    each = np.asarray(logits, np.float32) if isinstance(logits, jax.Array) and logits.ndim == 3 else None
    return Wrapping(place, place, part, params, reason=reason, ending=ending, witness=witness, token_logits=each)


def classifiers_of(
    module: nnx.Module, by_name: bool, example: Any, ending: str = "", row: Entry = ()
) -> Sequence[str]:
    """The submodules that are the classifiers at a module's end, in the order in which they run. CutError where
    there is one that nothing can be cut off before. `ending`: what was taken off its end. `row`: see
    `row_at_end`."""
    paths, inside, matrices = classifier_of(watching(module, by_name, row), example, ending)
    if inside:
        raise CutError(HIDDEN.format(called(module), ", ".join(paths)))
    if own := [name for name in names_holding(module, matrices) if not is_projection(name)]:
        raise CutError(OWN.format(called(module), own[0]))
    return paths


def _tell_of_doubted(module: nnx.Module, seeing: Callable[[Any], Any], example: Any) -> None:
    """See `doubted`: the weights that are called neither a classifier nor a projection."""
    matrices, count = product_of(seeing, example)
    for name in names_holding(module, matrices):
        name = name.removeprefix("params.") if isinstance(module, linen.Bridged) else name
        is_layer = name.rpartition(".")[2] == "kernel"
        if what := doubted(name, is_layer):
            tell_of_doubted(called(module), count, what, is_layer)
            return


def watching(module: nnx.Module, by_name: bool, row: Entry = ()) -> Callable[[Any], Any]:
    """What runs a copy of the module on a batch, its layers noted. `row`: which of several arrays is wanted."""

    def run(x: Any) -> Any:
        if isinstance(module, linen.Bridged):
            value = linen.watched(lambda: Whole(nnx.clone(module), by_name, False).given(x))
        else:
            clone = uncompiled(nnx.clone(module))
            value = watched(clone, lambda clone: Whole(clone, by_name, False).given(x))
        return entry_of(value, row)

    return run


def _entry(whole: Whole, example: Any, wanted: str, where: str, row: Entry) -> Entry:
    """Which of several arrays the module gives as features. `row`: see `row_at_end`."""
    value = outputs_of(whole, example)
    if isinstance(value, jax.Array):
        return ()
    shapes = following(_shapes(value), count(example), lambda: _shapes(outputs_of(whole, with_one_more(example))))
    return entry_in(shapes, wanted, count(example), where, type(value).__name__, "array", row)


def _shapes(value: Any) -> dict[Entry, tuple[int, ...]]:
    """Of the arrays in what a module gives; () for those that are no features."""
    return {
        entry: tuple(x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else ()
        for entry, x in arrays(value, jax.Array)
    }


def row_at_end(module: nnx.Module, by_name: bool, example: Any) -> Entry:
    """See `several.row_of`, which is said; () where a map or tokens that the module gives are made of it, as what
    a decoder gives is of a code."""
    # with its layers noted, as of what JAX compiles it remembers the first run
    seeing = watching(module, by_name)

    def shapes_for(batch: Any) -> dict[Entry, tuple[int, ...]]:
        runs: list[Any] = []
        jax.eval_shape(lambda x: runs.append(seeing(x)), put(batch))
        return _shapes(runs[0])

    shapes = following(shapes_for(example), count(example), lambda: shapes_for(with_one_more(example)))
    row = row_of(shapes, count(example))
    if not row:
        return ()

    def run(x: Any) -> Any:
        given = dict(arrays(seeing(x), jax.Array))
        return given.pop(row), [array for array in given.values() if array.ndim > 2]

    program = jax.make_jaxpr(run)(put(example)).jaxpr
    if feeds(program, program.outvars[0], program.outvars[1:]):
        return ()
    tell_row(row, shapes, called(module))
    return row


def names_of(module: nnx.Module) -> dict[Path, str]:
    """Path of a variable -> what it is called."""
    if isinstance(module, linen.Bridged):
        return {path: module.names[path[1]] for path in variables(module)}
    return {path: joined(path) for path in variables(module)}


def names_holding(module: nnx.Module, matrices: Sequence[jax.Array]) -> list[str]:
    """What parameters with these values are called."""
    names = names_of(module)
    return [
        names[path]
        for path, variable in variables(module).items()
        if isinstance(variable, nnx.Param)
        for matrix in matrices
        if variable.shape == matrix.shape and np.array_equal(variable[...], matrix)
    ]


def submodules_of(module: nnx.Module, by_name: bool, example: Any) -> dict[str, nnx.Module]:
    """Path -> what in a module can be called; a linen module knows when it runs."""
    if isinstance(module, linen.Bridged):
        whole = Whole(module, by_name, False)
        return dict.fromkeys((path for path, *_ in linen.calls(lambda: outputs_of(whole, example))), module)
    return {joined(path): layer for path, layer in nnx.iter_modules(module) if path and callable(layer)}


def place_of(cut: str, module: nnx.Module, by_name: bool, example: Any) -> tuple[str | None, str]:
    """The submodule that a cut means, None for the module itself, and the name of the one that is meant of several
    arrays that it gives, "" where none is named. CutError with near names where there is no such thing."""
    submodules = submodules_of(module, by_name, example)
    if cut in submodules:
        return cut, ""
    parts = cut.split(".")
    at = next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in submodules), None)
    several = nnx.clone(module)
    if at is not None:
        stop(several, [at], by_name, example)
    value = outputs_of(Whole(several, by_name, at is not None), example)
    wanted = cut if at is None else cut.removeprefix(f"{at}.")
    there = {dotted(entry) for entry, _ in arrays(value, jax.Array)} - {""}
    if there and (at is not None or any(name == wanted or name.startswith(f"{wanted}.") for name in there)):
        return at, wanted
    raise _no_such(cut, submodules)


def _no_such(cut: str, submodules: Mapping[str, Any]) -> CutError:
    """That there is no such place, with those that are near."""
    try:
        Paths.in_a_row([*submodules]).check(cut)
    except CutError as error:
        return error
    return CutError(f"cut={cut!r}: nothing can be called there")


def on_shapes(module: nnx.Module, paths: Sequence[str], by_name: bool, example: Any) -> tuple[Calls, Any]:
    """`called_on` for the example, of which nothing is computed: of arrays shapes and identity are known."""
    runs: list[tuple[Calls, Any]] = []
    jax.eval_shape(lambda x: runs.append(called_on(module, paths, by_name, x)), put(example))
    return runs[0]


def called_on(module: nnx.Module, paths: Sequence[str], by_name: bool, batch: Any) -> tuple[Calls, Any]:
    """Of each call of the submodules at these paths in a run of the module on a batch: its path, what it takes and
    gives; and all that the module gives."""
    clone = uncompiled(nnx.clone(module))
    whole = Whole(clone, by_name, False)
    if isinstance(clone, linen.Bridged):
        values: list[Any] = []
        calls = linen.calls(lambda: values.append(whole.given(batch)))
        return [call for call in calls if call[0] in paths], values[0]
    noted: Calls = []
    inside = {joined(path): layer for path, layer in nnx.iter_modules(clone) if joined(path) in paths}
    noting(inside, lambda *call: noted.append(call))
    value = whole.given(batch)
    return noted, value


def check_called_once(module: nnx.Module, at: Sequence[str], by_name: bool, example: Any) -> None:
    times = Counter(path for path, *_ in on_shapes(module, at, by_name, example)[0])
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


def stop(module: nnx.Module, at: Sequence[str], by_name: bool, example: Any, before: bool = False) -> None:
    """Let a call of the module end with what its submodule at the cut gives, or takes; of several, with what all
    of them take, side by side."""
    submodules = submodules_of(module, by_name, example) if at else {}
    if missing := [path for path in at if path not in submodules]:
        raise _no_such(missing[0], submodules)
    if len(at) > 1:
        _stop_before_several(module, {path: submodules[path] for path in at}, by_name, example)
        return
    if at and isinstance(module, linen.Bridged):
        module.cut, module.before = at[0], before
    elif at:
        uncompiled(module)
        last: Any = submodules[at[0]]
        object.__setattr__(last, "__class__", stopping(type(last), before))  # type: ignore[arg-type]


def _stop_before_several(
    module: nnx.Module, submodules: Mapping[str, nnx.Module], by_name: bool, example: Any
) -> None:
    """Let a call of the module end with what these submodules take, side by side. CutError where they cannot."""
    calls, _ = on_shapes(module, [*submodules], by_name, example)
    reading = reading_of(calls, [*submodules], called(module), example)
    if isinstance(module, linen.Bridged):
        module.reading = reading
    else:
        uncompiled(module)
        read_by(submodules, reading)


def put(batch: Any) -> Any:
    return jax.tree.map(jnp.asarray, batch)


def _array(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else None


def witnessed(cut: Any, end: Any, *parts: NativePart) -> Witnessed:
    arrays = [None if _array(output) is None else np.asarray(output, np.float32) for output in (cut, end)]
    return Witnessed(arrays[0], arrays[1], max(part.rounding for part in parts))


def takes_names(module: nnx.Module, example: Any) -> bool:
    """Whether the module's own arguments have the names of a dict's arrays; else it takes the dict."""
    if not isinstance(example, dict):
        return False
    arguments = inspect.signature(calling(module)).parameters
    return by_name(arguments, example)
