"""Parts of a wrapped module as they run: what they are built from, and what core is told of them.

Invariant: the user's module is cloned and never touched; parameters are named by their paths.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.tracers import TraceState

from headstart.backends.jax.door import settled
from headstart.backends.jax.modes import flags_of, switch
from headstart.backends.jax.statistics import PARAMS, is_statistic, names_what_is_trained, rooted, stopped
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import WrapRequest
from headstart.data import Arrays
from headstart.graph import NativePart
from headstart.models.several import Entry, entry_of

Path = tuple[Any, ...]
CONVOLUTION = "conv_general_dilated["
"""in the text of a program, each"""


@dataclass(frozen=True, eq=False)
class Native:
    """What a part is built from."""

    module: nnx.Module
    names: Mapping[Path, str]
    """path of a variable in `module` -> the parameter's name"""
    convolutions: int
    """how many there are in it, of which each is slow inside of a loop on a CPU"""


class Stop(Exception):  # noqa: N818 - it carries a value, and is always caught
    def __init__(self, value: Any) -> None:
        self.value, self.program = value, current_program()


def current_program() -> Any:
    """Something that is equal as long as JAX writes down the same program."""
    return TraceState()  # JAX itself has it in other places in other versions


def called_by(kind: Any, call: Any, *more: type) -> type:
    """The same kind of module with another `__call__`. `more`: what is derived from behind it."""
    return type(kind)(kind.__name__, (kind, *more), {"__call__": call, "__module__": kind.__module__})


@cache
def stopping(kind: Any, before: bool) -> type:
    """The same kind of module, whose call ends everything with its result, or with what it takes."""

    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise Stop(next(iter((*args, *kwargs.values()))) if before else kind.__call__(self, *args, **kwargs))

    return called_by(kind, stop)


COMPILED = type(jax.jit(len)), type(nnx.jit(len))


def uncompiled(module: nnx.Module) -> nnx.Module:
    """The module, which is a copy, whose calls are no programs of their own, from inside of which no value comes:
    it is compiled as a whole in any case."""
    for _, submodule in nnx.iter_modules(module):
        if isinstance(inspect.getattr_static(type(submodule), "__call__", None), COMPILED):
            object.__setattr__(submodule, "__class__", _plain(type(submodule)))  # type: ignore[arg-type]
    return module


@cache
def _plain(kind: Any) -> type:
    call = inspect.unwrap(inspect.getattr_static(kind, "__call__"))
    return called_by(kind, call)


INSIDE = (
    "the cut lies inside of what JAX transforms as one thing (jit, remat, scan, vmap ...), from which no value "
    "comes out halfway. Cut before or behind it; or pass the module made without it: jit and remat change no "
    "parameter"
)


class Whole(nnx.Module):
    """A module that takes a batch as its one argument and gives one array; until it is stopped, if it is. Whether
    it trains it is told by its call, where that takes flags."""

    def __init__(self, module: nnx.Module, by_name: bool, stops: bool) -> None:
        self.module, self.by_name, self.stops = module, by_name, stops
        self.entry: Entry = ()
        """which of several arrays it gives"""
        self.first = False
        """whether of tokens it gives the first"""
        self.deterministic = True  # which NNX's own train() and eval() set
        call: Any = calling(module)
        self.flags = flags_of(call, module.settings if isinstance(module, Function) else vars(module))
        stream = inspect.signature(call).parameters.get("rngs")
        self.rngs = None if stream is None else nnx.Rngs(0)
        self.draws = stream is not None and stream.default is stream.empty
        """whether its call wants the random stream in inference, too"""

    def __call__(self, x: Any) -> Any:
        value = entry_of(self.given(x), self.entry)
        return value[:, 0] if self.first else value

    def given(self, x: Any) -> Any:
        """All that it gives."""
        told: dict[str, Any] = {name: value is self.deterministic for name, value in self.flags}
        if self.rngs is not None and (self.draws or not self.deterministic):
            told["rngs"] = self.rngs
        try:
            value = self.module(**told | x) if self.by_name else self.module(x, **told)
        except Stop as stop:
            if stop.program != current_program():
                raise CutError(INSIDE) from None
            return stop.value
        if self.stops:
            raise CutError("the module ended without coming to its cut; is that submodule called?")
        return value


def calling(module: nnx.Module) -> Any:
    """The function that says what arguments a module's call takes."""
    return module.calling if isinstance(module, Function) else type(module).__call__


class Function(nnx.Module):
    """A function of parameters and a batch, with its parameters. Running statistics among them are not trained;
    where there is a collection `params`, as in a flax.linen module's variables, it alone is."""

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        places, self.tree = jax.tree_util.tree_flatten_with_path(params)
        self.function = function
        self.dtype: Any = None
        self.keeps_statistics = False
        """whether batch norms in it do, in training"""
        self.told = names_what_is_trained(params)
        self.leaves = nnx.List([])
        for path, leaf in places:
            array, steps = jnp.asarray(leaf), [*map(step, path)]
            fixed = steps[0] != PARAMS if self.told else is_statistic(steps, array.shape)
            learned = jnp.issubdtype(array.dtype, jnp.floating) and not fixed
            self.leaves.append(nnx.Param(array) if learned else nnx.Variable(array))

    @property
    def calling(self) -> Any:
        """What says which arguments a call takes."""
        return self.function

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its owner has set in it."""
        return {}

    def params(self) -> Any:
        """The parameters as the function takes them."""
        return jax.tree.unflatten(self.tree, [leaf[...] for leaf in self.leaves])

    def __call__(self, x: Any) -> Any:
        params = self.params()
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
        for _, submodule in nnx.iter_modules(module):
            if getattr(submodule, "dtype", ...) is None:
                submodule.dtype = dtype
    return module


def copied(module: nnx.Module) -> nnx.Module:
    """A clone in inference mode. SettingError where a method was set on an object, since that would go on using
    the parameters of the module it was taken from."""
    for path, submodule in nnx.iter_modules(module):
        for name, value in vars(submodule).items():
            if isinstance(value, types.MethodType) and isinstance(value.__self__, nnx.Module):
                raise SettingError(
                    f"{joined((*path, name))} is a method that was set on an object; a copy would go on "
                    "using the parameters of the module that it belongs to. Write it into the class"
                )
    clone = nnx.clone(module)
    nnx.pop(clone, nnx.Intermediate)  # what an earlier run of it has sown, which is no state
    switch(clone, False)
    return clone


def narrow(module: nnx.Module) -> nnx.Module:
    """The module, which is a copy, with numbers of 32 bits, as core has them."""
    for variable in variables(module).values():
        value = variable.get_value()
        if kind := WIDE.get(str(getattr(value, "dtype", ""))):
            variable.set_value(jnp.asarray(np.asarray(value), kind))
    for _, submodule in nnx.iter_modules(module):
        dtype = getattr(submodule, "dtype", None)
        if kind := WIDE.get(getattr(dtype, "__name__", str(dtype))):
            submodule.dtype = jnp.dtype(kind)
    return module


WIDE = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}


PRUNED = (0,)


def prune(whole: nnx.Module, example: Any) -> None:
    """Empty the variables that are not used before the cut, neither in inference nor in training."""
    used = used_by(whole, example)[0]
    learning = nnx.clone(whole)
    switch(learning, True)
    # It may want what the example does not hold; what inference uses is known.
    with contextlib.suppress(Exception):
        used |= used_by(learning, example)[0]
    unused = {path: variable for path, variable in variables(whole).items() if path not in used}
    values = {path: variable.get_value() for path, variable in unused.items()}
    for path, variable in unused.items():
        variable.set_value(jnp.zeros(PRUNED, values[path].dtype))
    try:
        outputs_of(whole, example)
    except Exception:  # its code asks for the shape of what it does not use, before it comes to the cut
        for path, variable in unused.items():
            variable.set_value(values[path])


def used_by(module: nnx.Module, example: Any) -> tuple[set[Path], Any, Any]:
    """The variables that the output, or anything else, is computed from; the program; and what it gives, of which
    only shapes and types are known."""
    values = {path: variable.get_value() for path, variable in variables(module).items()}
    order = list(values)

    def run(given: list[jax.Array], x: Any) -> jax.Array:
        clone = nnx.clone(module)
        for path, variable in variables(clone).items():
            variable.set_value(given[order.index(path)])
        return clone(x)

    traced = jax.make_jaxpr(run, return_shape=True)
    made, given = traced(list(values.values()), jax.tree.map(jnp.asarray, example))
    program = made.jaxpr
    taken = {id(v) for equation in program.eqns for v in equation.invars} | {id(v) for v in program.outvars}
    return {path for path, v in zip(order, program.invars, strict=False) if id(v) in taken}, program, given


def part_of(
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
    _, program, given = used_by(module, example)
    value, inputs = _rows(given), list(found)
    fixed |= {names[inputs[at]] for at in stopped(program) if at < len(inputs) and inputs[at] in names}
    if isinstance(module, Function) and not module.told:
        _refuse_variances(trained & {names[inputs[at]] for at in rooted(program) if at < len(inputs)} - fixed)

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

    text = str(program)
    part = NativePart(
        "jax",
        Native(module, dict(names), text.count(CONVOLUTION)),
        Arrays.like(example).entries,
        tuple(value.shape[1:]),
        {name: tuple(array.shape) for name, array in params.items()},
        frozenset(params.keys() - trained),
        structure,
        initial,
        frozenset(trained & fixed),
        rounding=_rounding(text),
    )
    return part, params


def _refuse_variances(names: set[str]) -> None:
    if names:
        raise SettingError(
            f"the function takes the square root of {min(names)!r} of its params, as of a variance, which "
            "training would make negative. Say what is trained: params={'params': ..., 'batch_stats': ...} for "
            "this function, of which it is 'params' alone; or {'params': ...} with all in it, if it is all"
        )


KINDS = re.compile(r"\b(bf16|f16|f32)\[")
WRITTEN = {"bf16": jnp.bfloat16, "f16": jnp.float16, "f32": jnp.float32}


def _rounding(program: str) -> float:
    """The step of the coarsest numbers in a program's text: parameters of float32 say nothing of what is computed
    with."""
    return max(float(jnp.finfo(WRITTEN[kind]).eps) for kind in {"f32", *KINDS.findall(program)})


def features_of(part: NativePart) -> np.ndarray:
    """Such as the trunk gives, for a head to be shown."""
    return np.zeros((2, *part.output), np.float32)


def outputs_of(whole: Whole, example: Any) -> Any:
    """All that it gives for the example, without computing it: arrays of which only shapes and types are known."""
    seen: list[Any] = []

    def run(x: Any) -> None:
        seen[:] = [nnx.clone(whole).given(x)]

    jax.eval_shape(run, jax.tree.map(jnp.asarray, example))
    return seen[0]


def output_of(module: nnx.Module, example: Any) -> jax.ShapeDtypeStruct:
    """What the module gives for the example, without computing it."""
    return _rows(jax.eval_shape(lambda x: nnx.clone(module)(x), jax.tree.map(jnp.asarray, example)))


def _rows(value: Any) -> jax.ShapeDtypeStruct:
    """What a part gives for two samples, or CutError."""
    array = isinstance(value, jax.ShapeDtypeStruct)
    if not array or value.ndim < 2 or value.shape[0] != 2 or not jnp.issubdtype(value.dtype, jnp.floating):
        given = f"{value.dtype} of shape {value.shape}" if array else type(value).__name__
        raise CutError(
            f"the part gives {given} for two samples; expected one array of floating-point numbers with a row for "
            "each sample. Cut it elsewhere, or wrap a module of yours that calls it and returns such an array"
        )
    rows: jax.ShapeDtypeStruct = value
    return rows


def joined(path: Any) -> str:
    return ".".join(map(str, path))


def step(key: Any) -> Any:
    """A key of a pytree's path, as it is said."""
    return next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name))
