"""What a user's NNX or linen module computes behind one of its submodules, as a head.

JAX shows no graph that could be cut in two, but a module runs again as often as it is asked to: the head is the
module's own call on a batch of zeros, in which the submodule at the cut gives the features in place of what it
made of the zeros, or takes them. What stands before it then counts for nothing, and compiled it is left out.

Invariants: whatever goes around the cut is refused; the module is cloned and never touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from headstart.backends.jax import linen
from headstart.backends.jax.classifier import KNOWN, LAYER, MADE, NAME
from headstart.backends.jax.following import MEAN, part_of
from headstart.backends.jax.modes import switch
from headstart.backends.jax.norms import COLLECTION
from headstart.backends.jax.parts import (
    CONVOLUTION,
    INSIDE,
    Path,
    Whole,
    called_by,
    copied,
    current_program,
    features_of,
    joined,
    narrow,
    uncompiled,
    variables,
)
from headstart.backends.jax.statistics import living, reaching
from headstart.backends.jax.submodules import (
    Calls,
    called,
    called_on,
    classifiers_of,
    names_of,
    on_shapes,
    place_of,
    put,
    row_at_end,
    stop,
    submodules_of,
    takes_names,
    up_to_submodule,
    watching,
)
from headstart.backends.jax.telling import told
from headstart.common.errors import CutError
from headstart.contract.wrapping import BEFORE, END, Wrapping, WrapRequest
from headstart.data.inputs import Arrays
from headstart.data.rows import ALONE
from headstart.graph.cuts import BOTH_SIDES, in_a_branch
from headstart.models.endings import ENDINGS
from headstart.models.several import Entry, at_end

CLOSE = 1e-4  # of what an ending makes of logits, computed here and there


@jax.tree_util.register_static
@dataclass(frozen=True)
class Unused:
    """What stands in a module for a variable that is not used: no array, as of these each costs a step time."""

    kind: type[nnx.Variable]
    shape: tuple[int, ...]
    dtype: str

    def fill(self, module: nnx.Module, path: Path) -> None:
        """Put a variable of zeros in its place."""
        _put_at(module, path, self.kind(jnp.zeros(self.shape, self.dtype)))


def _holder(module: nnx.Module, path: Path) -> Any:
    """The module or container in which a variable is."""
    holder: Any = module
    for step in path[:-1]:
        holder = holder[step] if isinstance(holder, Mapping | Sequence) else getattr(holder, step)
    return holder


def _put_at(module: nnx.Module, path: Path, value: Any) -> None:
    holder = _holder(module, path)
    if isinstance(holder, Mapping | Sequence):
        holder[path[-1]] = value  # type: ignore[index]
    else:
        setattr(holder, path[-1], value)


class Rest(nnx.Module):
    """Features `(n, ...)` -> what a module gives for them, `(n, classes)`."""

    def __init__(self, whole: Whole, cut: str, before: bool, example: Any, row: Entry) -> None:
        """`whole`: a copy. `cut`: its submodule that gives the features, or that takes them (`before`). `row`:
        which of several arrays it gives, where no name tells."""
        self.whole, self.cut, self.before, self.row = whole, cut, before, row
        self.inputs = Arrays.like(example)
        """what the module takes"""
        self.unused: tuple[tuple[Path, Unused], ...] = ()
        """what stands in `whole` for the variables that are not used behind the cut, by their paths"""

    def __call__(self, features: jax.Array) -> jax.Array:
        zeros = {name: jnp.zeros((features.shape[0], *shape), kind) for name, shape, kind in self.inputs.entries}
        return self.given(features, zeros[ALONE] if self.inputs.alone else zeros)

    def given(self, features: jax.Array, batch: Any) -> jax.Array:
        """The same, where the module is called on this batch, which counts for nothing."""
        # What is computed of zeros is written to no module that somebody keeps.
        whole = nnx.clone(self.whole)
        for path, unused in self.unused:
            unused.fill(whole, path)
        held = _held(whole)
        with self._giving(whole, features):
            value = at_end(whole.given(batch), jax.Array, self.row)
        for path, variable in _held(self.whole).items():  # statistics, and the states of random streams
            if held[path].get_value() is not variable.get_value():
                variable.set_value(held[path].get_value())
        assert isinstance(value, jax.Array), "as was looked at before"
        return value

    @contextlib.contextmanager
    def _giving(self, whole: Whole, features: jax.Array) -> Iterator[None]:
        """While this is open, the submodule at the cut gives the features, or takes them."""
        program, before = current_program(), self.before

        def instead(call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if program != current_program():
                raise CutError(INSIDE)
            if not before:
                return features
            named = {} if args else {next(iter(kwargs)): features}
            return call(*((features, *args[1:]) if args else ()), **{**kwargs, **named})

        def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            is_cut = context.method_name == "__call__" and linen.path_of(context.module) == self.cut
            return instead(method, args, kwargs) if is_cut else method(*args, **kwargs)

        if isinstance(whole.module, linen.Bridged):
            with nn.intercept_methods(intercept):
                yield
            return
        last: Any = next(part for path, part in nnx.iter_modules(whole.module) if joined(path) == self.cut)
        kind: Any = type(last)

        def resumed(module: Any, *args: Any, **kwargs: Any) -> Any:
            return instead(lambda *given, **named: kind.__call__(module, *given, **named), args, kwargs)

        object.__setattr__(last, "__class__", called_by(kind, resumed))
        yield


HEADS = "pass head='linear', a list of hidden widths such as [256], or a module"
NO_LOGITS = "what {} gives at its end is not one array, nor has it 'logits'; {}"
NO_END = "{} ends in no linear layer, so where its rest begins has to be said: pass cut=, a submodule; or {}"
APART = (
    "the classifiers at the end of {}, {}, have no one place before them: pass cut=, where the rest is to begin"
)
NO_REST = "cut={!r} leaves nothing of {} to train; cut earlier, or {}"
NOT_ONE = "{!r} {} no single array, which the rest behind it could be given; cut elsewhere, or {}"


def with_rest(request: WrapRequest) -> Wrapping:
    """A module cut at a submodule, with its rest as the head."""
    module = narrow(copied(request.native))
    by_name, example = takes_names(module, request.example), request.example
    calls, value = on_shapes(module, [*submodules_of(module, by_name, example)], by_name, example)
    row = row_at_end(module, by_name, example)
    if (end := at_end(value, jax.Array, row)) is None:
        raise CutError(NO_LOGITS.format(called(module), HEADS))
    classifiers: Sequence[str] = ()
    # Where somebody says where to cut, a classifier that cannot be cut off stays in the head.
    with contextlib.nullcontext() if request.cut is None else contextlib.suppress(CutError):
        classifiers = classifiers_of(module, by_name, example, row=row)
    cut = _cut(request, module, by_name, classifiers, calls)
    before, at = cut.startswith(BEFORE), cut.removeprefix(BEFORE)
    wrapping = up_to_submodule(replace(request, cut=cut, rest=False, logits=False, fresh=False), row)
    if not isinstance(next(taken if before else given for path, taken, given in calls if path == at), jax.Array):
        raise CutError(NOT_ONE.format(at, "takes" if before else "gives", HEADS))
    structure, reason = told(lambda teller: ["rest", cut, by_name, teller.value(module)], module)
    # what a single classifier gives may be all that the module gives
    plain = any(path in classifiers and given is end for path, _, given in calls)
    ending = "" if plain or len(classifiers) != 1 else _ending(module, by_name, example, classifiers, row)

    def behind(whole: nnx.Module) -> Rest:
        if ending:
            stop(whole, classifiers, by_name, example)
        return Rest(Whole(uncompiled(whole), by_name, bool(ending)), at, before, example, () if ending else row)

    def fresh(seed: int) -> nnx.Module:
        assert request.init is not None
        return behind(narrow(copied(request.init(seed))))

    rest, names = behind(nnx.clone(module)), {("module", *path): name for path, name in names_of(module).items()}
    features = features_of(wrapping.trunk)
    used, convolutions = _used(rest, features, example)
    if used is None:
        legal = [path for path in _legal(module, by_name, example, row) if path not in classifiers]
        raise in_a_branch(cut, [path for path, *_ in calls], legal, at)
    if shared := sorted(names[path] for path in used if names.get(path) in wrapping.params):
        raise CutError(BOTH_SIDES.format("parameter", shared[0], cut))
    _prune(rest, used)
    named = {("whole", *path): name for path, name in names.items() if path in used}
    part, params = part_of(request, rest, named, features, structure, fresh)
    if not params.keys() - part.buffers:
        raise CutError(NO_REST.format(cut, called(module), HEADS))
    norms = {
        name: size
        for name, size in part.norms.items()
        if {f"{name}.{MEAN}", f"{COLLECTION}.{name}.{MEAN}"} & {*named.values()}
    }
    part = replace(part, norms=norms, native=replace(part.native, convolutions=convolutions))
    return replace(wrapping, head=part, head_params=params, reason=wrapping.reason or reason, ending=ending)


def _cut(request: WrapRequest, module: nnx.Module, by_name: bool, classifiers: Sequence[str], calls: Calls) -> str:
    """Where the trunk ends, as `Wrapping.cut` has it. `calls`: of all submodules, in a run."""
    cut = request.cut
    if cut == END:
        raise CutError(NO_REST.format(cut, called(module), HEADS))
    if cut is None:
        if not classifiers:
            raise CutError(NO_END.format(called(module), HEADS))
        if len(classifiers) > 1:
            raise CutError(APART.format(called(module), ", ".join(map(repr, classifiers))))
        return f"{BEFORE}{_before_dropout(classifiers[0], calls)}"
    if (at := cut.removeprefix(BEFORE)) not in {path for path, *_ in calls}:
        there, wanted = place_of(at, module, by_name, request.example)
        if there is not None and wanted:
            raise CutError(NOT_ONE.format(there, "gives", HEADS))
        if there is None:
            raise CutError(NO_REST.format(cut, called(module), HEADS))
    if cut in classifiers:
        raise CutError(NO_REST.format(cut, called(module), HEADS))
    return cut


def _before_dropout(path: str, calls: Calls) -> str:
    """The submodule before which the trunk ends: a dropout before the classifier at `path` is trained with it. In
    inference it gives what it takes."""
    taken = next(taken for name, taken, _ in calls if name == path)
    idle = [name for name, takes, gives in calls if gives is taken and takes is taken]
    return idle[0] if idle else path


def _ending(module: nnx.Module, by_name: bool, example: Any, classifiers: Sequence[str], row: Entry) -> str:
    """What the module makes probabilities by of the logits that its one classifier gives, "" if it does not: told
    by its numbers, as it may be written in many ways."""

    def run(x: Any) -> tuple[Any, Any]:
        calls, value = called_on(module, classifiers, by_name, x)
        _, _, logits = calls[-1]
        return at_end(value, jax.Array, row), logits

    end, logits = (np.asarray(array, np.float64) for array in jax.jit(run)(put(example)))
    if end.shape != logits.shape:
        return ""
    close = [name for name, made in ENDINGS.items() if np.allclose(made(logits), end, CLOSE, CLOSE)]
    return close[0] if len(close) == 1 else ""


def _used(rest: Rest, features: np.ndarray, example: Any) -> tuple[set[Path] | None, int]:
    """The variables in `rest.whole` that what it gives is computed from, in inference or in training, and of how
    many convolutions; None where the module's own input is, too, which goes around the cut."""
    used: set[Path] = set()
    convolutions = 0
    for learns in (False, True):
        switched = nnx.clone(rest)
        switch(switched, learns)
        values = {path: variable.get_value() for path, variable in variables(rest.whole).items()}

        def run(given: list[jax.Array], rows: jax.Array, batch: Any, switched: Rest = switched) -> jax.Array:
            clone = nnx.clone(switched)
            for variable, value in zip(variables(clone.whole).values(), given, strict=True):
                variable.set_value(value)
            return clone.given(rows, batch)

        try:
            program = jax.make_jaxpr(run)([*values.values()], features, put(example)).jaxpr
        except Exception:
            if learns:  # it may want what the example does not hold; what inference uses is known
                break
            raise
        reached = reaching(program)
        used |= {path for path, reaches in zip(values, reached, strict=False) if reaches}
        convolutions = max(convolutions, living(program).count(CONVOLUTION))
        if not learns and (any(reached[len(values) + 1 :]) or not reached[len(values)]):
            return None, 0
    return used, convolutions


def _prune(rest: Rest, used: set[Path]) -> None:
    """Leave out the variables that are not used behind the cut."""
    left_out = []
    for path, variable in variables(rest.whole).items():
        if path not in used and not isinstance(_holder(rest.whole, path), tuple):
            value = variable.get_value()
            unused = Unused(type(variable), tuple(value.shape), np.dtype(value.dtype).name)
            _put_at(rest.whole, path, unused)
            left_out.append((path, unused))
    rest.unused = tuple(left_out)


def _held(module: nnx.Module) -> dict[Path, nnx.Variable]:
    """Path -> variable, with the states of random streams."""
    return {path: node for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Variable)}


def _legal(module: nnx.Module, by_name: bool, example: Any, row: Entry) -> list[str]:
    """The submodules whose results all that the module gives is made of, in the order in which they end."""
    run = watching(module, by_name, row)
    program = jax.make_jaxpr(lambda x: at_end(run(x), jax.Array))(put(example)).jaxpr
    found = []
    for equation in program.eqns:
        name = str(equation.params.get("name", "")) if equation.primitive.name == NAME else ""
        kind = next((kind for kind in (MADE, KNOWN, LAYER) if name.startswith(kind)), None)
        if kind is not None and not any(reaching(program, equation)):
            found.append(name.removeprefix(kind))
    return found
