"""Batch norms that keep their statistics in training, as `batch_norm="frozen"` asks.

A layer is told in many ways whether it trains: by a mode, an argument of its call, a setting. Whichever it is, a
layer that holds statistics is told here that it does not, and the layers around it what they were told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
from flax import errors, nnx
from flax import linen as nn
from flax.core.scope import subtract_filters
from flax.nnx.bridge.variables import nnx_attrs_to_linen_vars

from headstart.backends.jax.modes import INFERENCE, switch_alone
from headstart.backends.jax.parts import Function, called_by, joined
from headstart.backends.jax.statistics import PARAMS, drawn
from headstart.common.errors import HeadstartError, SettingError

COLLECTION = "batch_stats"


def keeps_statistics(module: nnx.Module) -> bool:
    """Whether it is a batch norm of any make: flax's, one derived from it, or a user's own."""
    return isinstance(module, nnx.BatchNorm) or any(isinstance(v, nnx.BatchStat) for v in _held(vars(module)))


def _held(value: Any) -> Iterator[Any]:
    """Variables in containers."""
    if isinstance(value, nnx.Variable):
        yield value
    elif isinstance(value, Mapping | list | tuple | nnx.List):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _held(entry)


def tell(network: nnx.Module, follow: bool) -> None:
    """Tell all in a network that hold statistics, which is to train, whether these follow the batches."""
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.bridge.ToNNX):
            object.__setattr__(module, "__class__", _bridge(type(module), follow))  # type: ignore[arg-type]
        elif follow:
            continue
        elif isinstance(module, Function):
            module.keeps_statistics = True
        elif keeps_statistics(module):
            switch_alone(module, False)
            if callable(module):
                object.__setattr__(module, "__class__", _keeping(type(module)))  # type: ignore[arg-type]


ASKED = "on_set_value"
"""in a variable's metadata: what is asked before it is written to"""


@dataclass(frozen=True)
class Refusal:
    """What is asked before a statistic that is kept is written to."""

    path: str

    def __call__(self, variable: Any, value: Any) -> Any:
        raise SettingError(UNTOLD.format(self.path))


UNTOLD = (
    "{!r} is a batch statistic that is moved in training by what no flag tells of it, which batch_norm='frozen' "
    "does not reach: pass batch_norm='train', or move it in the call of a module that holds it and takes a flag "
    "such as train or use_running_average"
)


def refuse_writing(network: nnx.Module) -> None:
    """Let nothing in a network, which is a step's own, write to statistics."""
    for path, variable in nnx.iter_graph(network):
        if isinstance(variable, nnx.BatchStat):
            variable.set_metadata(ASKED, Refusal(joined(path)))


def with_statistics_of(before: nnx.State, after: nnx.State) -> nnx.State:
    """The state `after`, with the statistics of the one `before`, which `refuse_writing` has seen; SettingError
    where others came in their place."""
    earlier = dict(nnx.to_flat_state(before))
    for path, value in nnx.to_flat_state(after):
        if isinstance(value, nnx.BatchStat) and not value.has_metadata(ASKED):
            raise SettingError(UNTOLD.format(joined(path)))
    return nnx.from_flat_state(
        (path, earlier[path] if isinstance(value, nnx.BatchStat) else value)
        for path, value in nnx.to_flat_state(after)
    )


def check_there(before: nnx.State, written: nnx.State) -> None:
    """SettingError for statistics that a step in training has made, and that nothing would keep."""
    there = dict(nnx.to_flat_state(before))
    for path, value in nnx.to_flat_state(written):
        if isinstance(value, nnx.BatchStat) and path not in there:
            raise SettingError(
                f"in training {joined(path)!r} is made, a batch statistic that was not there before; run the "
                "module once in training before hs.wrap, or make it where the module is made"
            )


@cache
def _keeping(kind: Any) -> type:
    """The same kind of layer, told by each call that it does not train."""
    if kind is nnx.BatchNorm:
        return Keeping
    behind = (Keeping,) if issubclass(kind, nnx.BatchNorm) else ()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept_args, kept_kwargs = _in_inference(kind.__call__, self, args, kwargs, lambda name: None)
        if _may_draw(self, args, kwargs):
            learning = partial(_run, kind, self, args, kwargs, True)
            _check_drawn(kind.__name__, learning, partial(_run, kind, self, kept_args, kept_kwargs, False))
        return kind.__call__(self, *kept_args, **kept_kwargs)

    return called_by(kind, call, *behind)


def _run(kind: Any, module: nnx.Module, args: Any, kwargs: Any, learns: bool) -> Any:
    """What a copy of the module gives, of which nothing is left."""
    copy = nnx.clone(module)
    for _, variable in nnx.iter_graph(copy):
        if isinstance(variable, nnx.BatchStat) and variable.has_metadata(ASKED):
            variable.del_metadata(ASKED)
    switch_alone(copy, learns)
    args, kwargs = jax.tree.map(
        lambda value: nnx.clone(value) if _changes(value) else value, (args, kwargs), is_leaf=_changes
    )
    return kind.__call__(copy, *args, **kwargs)


def _changes(value: Any) -> bool:
    return isinstance(value, nnx.Module | nnx.Rngs | nnx.RngStream)


def _may_draw(module: nnx.Module, args: Any, kwargs: Any) -> bool:
    """Whether it holds random streams, or is given such, or keys."""
    given = jax.tree.leaves((args, kwargs), is_leaf=_changes)
    keys = any(_changes(value) or str(getattr(value, "dtype", "")).startswith(KEYS) for value in given)
    return keys or any(isinstance(node, nnx.RngStream) for _, node in nnx.iter_graph(module))


KEYS = ("key<", "uint32")


def _check_drawn(called: str, learning: Callable[[], Any], kept: Callable[[], Any]) -> None:
    """SettingError where a call that moves statistics draws random numbers that it would not draw if it kept
    them: both are told by the same; or where that cannot be seen. `learning`, `kept`: run it so and so."""
    try:
        is_lost = drawn(learning) > drawn(kept)
    except HeadstartError:
        raise
    except Exception as error:
        raise SettingError(
            f"{called} moves batch statistics, and its call cannot be looked at by itself "
            f"({type(error).__name__}: {str(error)[:200]}): batch_norm='frozen' could end its dropout, too. Pass "
            "batch_norm='train', or give the statistics a submodule of their own, such as flax's BatchNorm"
        ) from error
    if is_lost:
        raise SettingError(
            f"{called} moves batch statistics and draws random numbers (dropout) as one flag says, by which "
            "batch_norm='frozen' would end both; pass batch_norm='train', or give the statistics a submodule of "
            "their own, such as flax's BatchNorm"
        )


class Keeping(nnx.BatchNorm):
    """flax's own, also where a layer derived from it calls it with what it was told."""

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **settings: Any) -> jax.Array:
        return super().__call__(x, use_running_average=True, **settings)


def held_by(bridge: nnx.Module) -> dict[str, Any]:
    """The variables of the linen module that a `ToNNX` holds, as linen has them."""
    held = {name: value for name, value in vars(bridge).items() if not name.startswith(HIDDEN)}
    return dict(nnx_attrs_to_linen_vars(held))


HIDDEN = ("to_nnx__", "_pytree__", "_object__")
"""what NNX and its bridge keep in a module for themselves"""


@cache
def _bridge(kind: Any, follow: bool) -> type:
    """The same kind of `ToNNX`. What its own call is not told to be written to, is not, and the first batch norm
    that trains fails."""

    def call(self: Any, *args: Any, mutable: Any = None, **kwargs: Any) -> Any:
        if follow:
            mutable = [*held_by(self).keys() - {PARAMS}] if mutable is None else mutable
            return kind.__call__(self, *args, mutable=mutable, **kwargs)
        mutable = mutable if mutable is None else subtract_filters(mutable, COLLECTION)
        called = type(self.to_nnx__module).__name__
        return with_kept(called, lambda: kind.__call__(self, *args, mutable=mutable, **kwargs))

    return called_by(kind, call)


def with_kept(called: str, run: Callable[[], Any]) -> Any:
    """What `run` gives, which applies a flax.linen module whose statistics are kept; SettingError where it writes
    to them all the same."""
    try:
        with nn.intercept_methods(_intercept):
            return run()
    except errors.ModifyScopeVariableError as error:
        raise SettingError(
            f"{called} moves its statistics in training in a way that batch_norm='frozen' does not reach "
            f"({error}); pass batch_norm='train', or let it ask self.is_mutable_collection({COLLECTION!r})"
        ) from error


def _intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if _looking.get() or context.method_name != "__call__" or not _holds_statistics(module):
        return method(*args, **kwargs)
    settings = {name: vars(module)[name] for name in INFERENCE if isinstance(vars(module).get(name), bool)}
    learning = partial(_applied, module, args, kwargs, settings)
    args, kwargs = _in_inference(type(module).__call__, module, args, kwargs, settings.get)
    if type(module) is not nn.BatchNorm:
        kept = partial(_applied, module, args, kwargs, {name: INFERENCE[name] for name in settings})
        _check_drawn(type(module).__name__, learning, kept)
    for name in settings:  # the module is a copy that flax makes for this call
        object.__setattr__(module, name, INFERENCE[name])
    try:
        return method(*args, **kwargs)
    finally:
        for name, value in settings.items():
            object.__setattr__(module, name, value)


_looking: ContextVar[bool] = ContextVar("_looking", default=False)
"""whether a module is run only to be looked at"""


def _applied(module: nn.Module, args: Any, kwargs: Any, settings: Mapping[str, bool]) -> Any:
    """What a copy of a bound module gives, of which nothing is left."""
    copy, variables = module.unbind()
    assert module.scope is not None
    streams = {name: jax.random.key(0) for name in ("params", "dropout", *module.scope.rngs)}
    token = _looking.set(True)
    try:
        return copy.clone(**settings).apply(variables, *args, rngs=streams, mutable=True, **kwargs)[0]
    finally:
        _looking.reset(token)


def _holds_statistics(module: nn.Module) -> bool:
    """Whether the statistics are its own, and not those of layers in it."""
    own = module.variables.get(COLLECTION, {})
    return isinstance(module, nn.BatchNorm) or any(not isinstance(value, Mapping) for value in own.values())


def _in_inference(
    call: Callable[..., Any], module: Any, args: Any, kwargs: Any, setting: Callable[[str], bool | None]
) -> tuple[Any, Any]:
    """The arguments of a module's call, with its flags as they are in inference, but for those that its settings
    say."""
    signature = inspect.signature(call)
    given = signature.bind_partial(module, *args, **kwargs)
    for name, value in INFERENCE.items():
        if name in signature.parameters and setting(name) is None:
            given.arguments[name] = value
    given.arguments = {name: given.arguments[name] for name in signature.parameters if name in given.arguments}
    return given.args[1:], given.kwargs
