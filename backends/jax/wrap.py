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
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.doors.jax import as_its_owner, settled
from headstart.backends.jax.classifier import classifier_of, ends_in_classifier
from headstart.backends.jax.traced import compilable
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import BEFORE, END, Witnessed, Wrapping, WrapRequest
from headstart.data import Arrays
from headstart.graph import NativePart
from headstart.graph.cuts import Paths
from headstart.models.feature_layout import last_only
from headstart.models.structure import Structure, Teller, UnknownStructure, array_digest

LIBRARIES = ("jax", "jaxlib", "flax", "optax")
INPUT, OUTPUT = "input", "output"
BETWEEN = "between the functions"
Path = tuple[Any, ...]


def owns(native: Any) -> bool:
    return isinstance(native, nnx.Module) or _is_pair(native) or _is_linen(native)


def _is_linen(native: Any) -> bool:
    linen = sys.modules.get("flax.linen")  # where it was not imported, there can be no such module
    return linen is not None and isinstance(native, linen.Module)


def _is_pair(native: Any) -> bool:
    if not isinstance(native, list | tuple) or len(native) != 2:
        return False
    trunk, head = native
    return inspect.isroutine(inspect.unwrap(trunk)) and (head is None or inspect.isroutine(inspect.unwrap(head)))


def wrap(request: WrapRequest) -> Wrapping:
    last_only(request.layout, "JAX")
    if _is_linen(request.native):
        raise SettingError(
            f"{type(request.native).__name__} is a flax.linen module, which holds no parameters. Pass two "
            "functions with them: hs.wrap((lambda p, x: trunk.apply(p, x), None), params=(variables, None), "
            "head='linear', classes=...), or a second function as head; or bridge it to flax.nnx"
        )
    with compilable("a function" if _is_pair(request.native) else type(request.native).__name__):
        return _cut(request)


def _cut(request: WrapRequest) -> Wrapping:
    if _is_pair(request.native):
        return _functions(request)
    if request.params is not None:
        raise SettingError("params= goes with JAX functions; an NNX module holds its parameters itself")
    layers = isinstance(request.native, nnx.Sequential) and str(request.cut).removeprefix("layers.").isdigit()
    replaced = request.fresh and request.cut is None and type(request.native) is nnx.Sequential
    if replaced and len(request.native.layers) > 1 and ends_in_classifier(list(request.native.layers)):
        layers = True
    return _sequential(request) if request.rest or layers else _module(request)


@dataclass(frozen=True, eq=False)
class Native:
    """What a part is built from."""

    module: nnx.Module
    names: Mapping[Path, str]
    """path of a variable in `module` -> the parameter's name"""
    convolves: bool
    """whether there is a convolution in it, which is slow inside of a loop on a CPU"""


# ---- what runs


class Stop(Exception):  # noqa: N818 - it carries a value, and is always caught
    def __init__(self, value: Any) -> None:
        self.value = value


@cache
def _stopping(kind: Any, before: bool) -> type:
    """The same kind of module, whose call ends everything with its result, or with what it takes."""

    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise Stop(next(iter((*args, *kwargs.values()))) if before else kind.__call__(self, *args, **kwargs))

    return type(kind)(kind.__name__, (kind,), {"__call__": stop, "__module__": kind.__module__})


class Whole(nnx.Module):
    """A module that takes a batch as its one argument; until it is stopped, if it is."""

    def __init__(self, module: nnx.Module, by_name: bool, stops: bool) -> None:
        self.module, self.by_name, self.stops = module, by_name, stops

    def __call__(self, x: Any) -> Any:
        try:
            value = self.module(**x) if self.by_name else self.module(x)
        except Stop as stop:
            return stop.value
        if self.stops:
            raise CutError("the module ended without coming to its cut; is that submodule called?")
        return value


class Function(nnx.Module):
    """A function of parameters and a batch, with its parameters."""

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        leaves, self.tree = jax.tree.flatten(params)
        self.function = function
        self.dtype: Any = None
        arrays = [jnp.asarray(leaf) for leaf in leaves]
        kinds = [nnx.Param if jnp.issubdtype(array.dtype, jnp.floating) else nnx.Variable for array in arrays]
        self.leaves = nnx.List([kind(array) for kind, array in zip(kinds, arrays, strict=True)])

    def __call__(self, x: Any) -> Any:
        params = jax.tree.unflatten(self.tree, [leaf[...] for leaf in self.leaves])
        if self.dtype is not None:
            params, x = jax.tree.map(self._cast, (params, x))
        return self.function(params, x)

    def _cast(self, array: jax.Array) -> jax.Array:
        return array.astype(self.dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def variables(module: nnx.Module) -> dict[Path, nnx.Variable]:
    """Path -> variable, without the states of random streams."""
    return {
        path: node
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Variable) and not isinstance(node, nnx.RngState)
    }


def build(part: NativePart, params: Mapping[str, np.ndarray], dtype: Any, seed: int) -> nnx.Module:
    """A module of its own for a part, with these parameters; `dtype`: of its arithmetic, None: as it is."""
    part.require("jax")
    native: Native = part.native
    module = nnx.clone(native.module)
    for path, variable in variables(module).items():
        if native.names.get(path) in params:
            variable.set_value(jnp.array(params[native.names[path]]))
    streams = {node.key.tag for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)}
    nnx.reseed(module, policy="match_shape", **dict.fromkeys(streams, seed))
    if dtype is not None:
        for _, one in nnx.iter_modules(module):
            if getattr(one, "dtype", ...) is None:
                one.dtype = dtype
    return module


# ---- ways to cut


def _functions(request: WrapRequest) -> Wrapping:
    functions = request.native
    if request.cut not in (None, BETWEEN if request.rest else END):
        raise CutError(f"cut={request.cut!r}: two functions are cut between them, and nowhere else")
    if not isinstance(request.params, list | tuple) or len(request.params) != 2:
        raise SettingError("two JAX functions need params=(trunk_params, head_params), any pytrees of arrays")

    def part(place: int, example: Any) -> tuple[NativePart, dict[str, np.ndarray], str]:
        function, params = functions[place], request.params[place]
        module = Function(function, params)
        names = [_joined(map(_step, path)) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        named = {path: names[path[1]] for path in variables(module)}

        def fresh(seed: int) -> nnx.Module:
            assert request.init is not None
            return Function(function, request.init(seed)[place])

        structure, reason = _told(lambda teller: teller.value(function))
        return *_part(request, module, named, example, structure, fresh), reason

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        value = functions[0](request.params[0], _put(batch))
        end = functions[1](request.params[1], value) if request.rest else None
        return _witnessed(value, end, request.params)

    trunk, params, reason = part(0, request.example)
    if not request.rest:
        return Wrapping(END, END, trunk, params, reason=reason, witness=witness)
    if functions[1] is None:
        raise SettingError("the pair has no second function; head='linear' makes a classifier behind the first")
    head, head_params, _ = part(1, _features(trunk))
    return Wrapping(BETWEEN, "functions", trunk, params, head, head_params, reason, "", witness)


def _sequential(request: WrapRequest) -> Wrapping:
    """Between two layers of an nnx.Sequential."""
    if not isinstance(request.native, nnx.Sequential):
        raise CutError(
            f"of {type(request.native).__name__}, the rest behind a cut cannot be had, as of an nnx.Sequential or "
            "two JAX functions; pass head='linear', a list of hidden widths such as [256], or a module"
        )
    module, ending = _narrow(copied(request.native)), ""
    if request.logits:
        module, ending = _without_ending(module)
    layers = list(module.layers)
    names = [f"layers.{place}" for place in range(len(layers))]
    taken = {INPUT: ()} | {name: (before,) for before, name in itertools.pairwise((INPUT, *names))}
    paths = Paths(taken, names[-1], {str(place): name for place, name in enumerate(names)})
    cut = _before_classifier(layers, paths) if request.cut is None else paths.resolve(request.cut)
    if request.rest or cut != names[-1]:
        cut = paths.check(cut)
    end = names.index(cut) + 1

    def slice(whole: nnx.Module, start: int, stop: int) -> nnx.Module:
        return nnx.Sequential(*list(whole.layers)[start:stop])

    def part(start: int, stop: int, example: Any) -> tuple[NativePart, dict[str, np.ndarray], str]:
        some = slice(module, start, stop)
        named = {path: _joined(("layers", path[1] + start, *path[2:])) for path in variables(some)}
        structure, reason = _told(lambda teller: ["sequential", *map(teller.value, layers[start:stop])])

        def fresh(seed: int) -> nnx.Module:
            assert request.init is not None
            return slice(_narrow(copied(request.init(seed))), start, stop)

        return *_part(request, some, named, example, structure, fresh), reason

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        whole = copied(request.native)
        return _witnessed(slice(whole, 0, end)(_put(batch)), whole(_put(batch)), nnx.state(whole))

    trunk, params, reason = part(0, end, request.example)
    if not request.rest:
        return Wrapping(cut, cut, trunk, params, reason=reason, witness=witness)
    head, head_params, _ = part(end, len(layers), _features(trunk))
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


def _before_classifier(layers: list[Any], paths: Paths) -> str:
    trained = [place for place, layer in enumerate(layers) if isinstance(layer, nnx.Module) and _has_params(layer)]
    end = max(trained, default=0)
    while end > 1 and isinstance(layers[end - 1], nnx.Dropout):
        end -= 1
    if not end:
        raise CutError("the nnx.Sequential has no place before its last layer where it can be cut")
    return f"layers.{end - 1}"


def _has_params(module: nnx.Module) -> bool:
    return any(isinstance(variable, nnx.Param) for variable in variables(module).values())


def _module(request: WrapRequest) -> Wrapping:
    """A module as it is, all of it or up to a submodule."""
    module, ending = _narrow(copied(request.native)), ""
    if request.logits:
        module, ending = _without_ending(module)
    by_name = _takes_names(module, request.example)
    at, cut, before = request.cut, request.cut, False
    if at == END:
        at = cut = None
    elif at is not None and at.startswith(BEFORE):
        at, before = at.removeprefix(BEFORE), True
    elif request.fresh and at is None:
        at = classifier_of(module, request.example, lambda one, x: Whole(one, by_name, False)(x))
        cut, before = (None, False) if at is None else (f"{BEFORE}{at}", True)
    structure, reason = _told(lambda teller: [cut, by_name, teller.value(module)])
    if at is not None:
        _stop(module, at, before)
    whole = Whole(module, by_name, at is not None)
    if at is not None:
        _prune(whole, request.example)

    def fresh(seed: int) -> nnx.Module:
        assert request.init is not None
        return Whole(_narrow(copied(request.init(seed))), by_name, False)

    @as_its_owner
    def witness(batch: Any) -> Witnessed:
        upto = copied(request.native)
        end = _array(Whole(upto, by_name, False)(_put(batch)))
        if at is None:
            return _witnessed(end, end, nnx.state(upto))
        _stop(upto, at, before)
        return _witnessed(Whole(upto, by_name, True)(_put(batch)), end, nnx.state(upto))

    named = {path: _joined(path[1:]) for path, variable in variables(whole).items() if variable.shape != PRUNED}
    part, params = _part(request, whole, named, request.example, structure, fresh)
    place = cut or END
    return Wrapping(place, place, part, params, reason=reason, ending=ending, witness=witness)


def _stop(module: nnx.Module, cut: str, before: bool = False) -> None:
    """Let a call of the module end with what its submodule at the cut gives, or takes."""
    submodules = {_joined(path): one for path, one in nnx.iter_modules(module) if path and callable(one)}
    if cut not in submodules:
        taken = {name: (before,) for before, name in itertools.pairwise((INPUT, *submodules, OUTPUT))}
        Paths({INPUT: (), **taken}, OUTPUT).check(cut)
    stop: Any = submodules[cut]
    object.__setattr__(stop, "__class__", _stopping(type(stop), before))  # type: ignore[arg-type]


def _put(batch: Any) -> Any:
    return jax.tree.map(jnp.asarray, batch)


def _array(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else None


def _witnessed(cut: Any, end: Any, params: Any) -> Witnessed:
    kinds = [leaf.dtype for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")]
    eps = [float(jnp.finfo(kind).eps) for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
    arrays = [None if _array(one) is None else np.asarray(one, np.float32) for one in (cut, end)]
    return Witnessed(arrays[0], arrays[1], max([2.0**-23, *eps]))


def copied(module: nnx.Module) -> nnx.Module:
    """A clone in inference mode. SettingError where a method was set on an object, since that would go on using
    the parameters of the module it was taken from."""
    for path, one in nnx.iter_modules(module):
        for name, value in vars(one).items():
            if isinstance(value, types.MethodType) and isinstance(value.__self__, nnx.Module):
                raise SettingError(
                    f"{_joined((*path, name))} is a method that was set on an object; a copy would go on "
                    "using the parameters of the module that it belongs to. Write it into the class"
                )
    clone = nnx.clone(module)
    clone.eval()
    return clone


def _narrow(module: nnx.Module) -> nnx.Module:
    """The module, which is a copy, with numbers of 32 bits, as core has them."""
    for variable in variables(module).values():
        value = variable.get_value()
        if kind := WIDE.get(str(getattr(value, "dtype", ""))):
            variable.set_value(jnp.asarray(np.asarray(value), kind))
    for _, one in nnx.iter_modules(module):
        dtype = getattr(one, "dtype", None)
        if kind := WIDE.get(getattr(dtype, "__name__", str(dtype))):
            one.dtype = jnp.dtype(kind)
    return module


WIDE = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}


def _takes_names(module: nnx.Module, example: Any) -> bool:
    """Whether the module's own arguments have the names of a dict's arrays; else it takes the dict."""
    if not isinstance(example, dict):
        return False
    arguments = inspect.signature(type(module).__call__).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in arguments.values())
    return anything or example.keys() <= arguments.keys()


PRUNED = (0,)


def _prune(whole: nnx.Module, example: Any) -> None:
    """Empty the variables that are not used before the cut, neither in inference nor in training."""
    used = _used(whole, example)[0]
    learning = nnx.clone(whole)
    learning.train()
    try:
        used |= _used(learning, example)[0]
    except Exception:  # in training it may want what the example does not hold; what inference uses is known
        learning.eval()
    for path, variable in variables(whole).items():
        if path not in used:
            variable.set_value(jnp.zeros(PRUNED, variable.get_value().dtype))


def _used(module: nnx.Module, example: Any) -> tuple[set[Path], Any]:
    """The variables that the output, or anything else, is computed from, and the program."""
    values = {path: variable.get_value() for path, variable in variables(module).items()}
    order = list(values)

    def run(given: list[jax.Array], x: Any) -> jax.Array:
        one = nnx.clone(module)
        for path, variable in variables(one).items():
            variable.set_value(given[order.index(path)])
        return one(x)

    program = jax.make_jaxpr(run)(list(values.values()), jax.tree.map(jnp.asarray, example)).jaxpr
    taken = {id(v) for equation in program.eqns for v in equation.invars} | {id(v) for v in program.outvars}
    return {path for path, v in zip(order, program.invars, strict=False) if id(v) in taken}, program


# ---- making parts


def _part(
    request: WrapRequest,
    module: nnx.Module,
    names: Mapping[Path, str],
    example: Any,
    structure: Any,
    fresh: Callable[[int], nnx.Module],
) -> tuple[NativePart, dict[str, np.ndarray]]:
    found = variables(module)
    params = {name: np.array(found[path].get_value()) for path, name in names.items()}
    for array in params.values():
        array.flags.writeable = False
    trained = {
        name
        for path, name in names.items()
        if isinstance(found[path], nnx.Param) and jnp.issubdtype(params[name].dtype, jnp.floating)
    }
    # Freezing is the optimiser's matter in NNX, which is not seen; this is how a parameter itself may say it.
    fixed = {name for path, name in names.items() if found[path].get_metadata().get("trainable", True) is False}
    value = _output(module, example)

    @settled
    def initial(seed: int) -> dict[str, np.ndarray]:
        if request.init is None:
            raise SettingError(
                "mode 'scratch' draws every parameter anew, which JAX has no word for; pass init= to hs.wrap, a "
                "function from a seed to a module made anew, or for functions to (trunk_params, head_params)"
            )
        drawn = {path: variable.get_value() for path, variable in variables(fresh(seed)).items()}
        if missing := [name for path, name in names.items() if path not in drawn]:
            raise SettingError(f"what init= has made lacks {', '.join(missing[:5])}")
        return {name: np.array(drawn[path]) for path, name in names.items()}

    program = str(_used(module, example)[1])
    part = NativePart(
        "jax",
        Native(module, dict(names), "conv_general_dilated" in program),
        Arrays.like(example).entries,
        tuple(value.shape[1:]),
        {name: tuple(array.shape) for name, array in params.items()},
        frozenset(params.keys() - trained),
        structure,
        initial,
        frozenset(trained & fixed),
    )
    return part, params


def _features(part: NativePart) -> np.ndarray:
    """Such as the trunk gives, for a head to be shown."""
    return np.zeros((2, *part.output), np.float32)


def _output(module: nnx.Module, example: Any) -> jax.ShapeDtypeStruct:
    """What the module gives for the example, without computing it."""
    value: Any = jax.eval_shape(lambda x: nnx.clone(module)(x), jax.tree.map(jnp.asarray, example))
    array = isinstance(value, jax.ShapeDtypeStruct)
    if not array or value.ndim < 2 or value.shape[0] != 2 or not jnp.issubdtype(value.dtype, jnp.floating):
        given = f"{value.dtype} of shape {value.shape}" if array else type(value).__name__
        raise CutError(
            f"the part gives {given} for two samples; expected one array of floating-point numbers with a row for "
            "each sample. Cut it elsewhere, or wrap a module of yours that calls it and returns such an array"
        )
    return value


def _step(key: Any) -> Any:
    return next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name))


def _joined(path: Any) -> str:
    return ".".join(map(str, path))


def attempt(native: Any, example: Any) -> None:
    """Run the user's module, on shapes: it says as much of what cannot be run."""
    if _is_pair(native):  # whose parameters are not in them; they are not copied, so it is they that failed
        raise SettingError("a function fails as it is")
    module = copied(native)
    rows = jax.tree.map(jnp.asarray, example)
    jax.eval_shape(
        lambda x: nnx.clone(module)(**x) if _takes_names(module, example) else nnx.clone(module)(x), rows
    )


# ---- structure


def _told(tell: Callable[[Teller], Any]) -> tuple[str | None, str]:
    """A digest of what is told, or None and the reason."""

    def special(value: Any) -> Any:
        if isinstance(value, nnx.Rngs | nnx.RngStream):
            return ["random stream"]
        if isinstance(value, nnx.Variable):
            return ["variable", type(value).__name__]
        if isinstance(value, nnx.List):
            return ["list", *map(teller.value, value)]
        if isinstance(value, nnx.Dict):
            return ["dict", [[name, teller.value(one)] for name, one in sorted(value.items())]]
        if isinstance(value, nnx.Module):
            settings = {name: one for name, one in vars(value).items() if not name.startswith(INTERNAL)}
            library = type(value).__module__.partition(".")[0] in LIBRARIES
            return ["module", teller.code(type(value)), teller.attributes(settings, library)]
        if isinstance(value, jax.Array):
            return array_digest(np.asarray(value))
        return None

    teller = Teller(LIBRARIES, special)
    try:
        return Structure.of(tell(teller), teller.lookups), ""
    except UnknownStructure as error:
        return None, str(error)
    except RecursionError:
        return None, "the module refers to itself"


# what NNX keeps in a module for itself
INTERNAL = ("_pytree__", "_object__")
