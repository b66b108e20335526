"""Batch norms that keep their statistics in training, as `batch_norm="frozen"` asks.

A layer is told in many ways whether it trains: by a mode, an argument of its call, a setting. Whichever it is, a
layer that holds statistics is told here that it does not, and the layers around it what they were told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import jax
from flax import errors, nnx
from flax import linen as nn
from flax.core.scope import subtract_filters
from flax.nnx.bridge.variables import nnx_attrs_to_linen_vars

from headstart.backends.jax.parts import INFERENCE, Function, called_by
from headstart.backends.jax.statistics import PARAMS
from headstart.common.errors import SettingError

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
            module.eval()
            if callable(module):
                object.__setattr__(module, "__class__", _keeping(type(module)))  # type: ignore[arg-type]


def with_statistics_of(before: nnx.State, after: nnx.State) -> nnx.State:
    """The state `after`, with the statistics of the one `before`."""
    earlier = dict(nnx.to_flat_state(before))
    return nnx.from_flat_state(
        (path, earlier[path] if isinstance(value, nnx.BatchStat) else value)
        for path, value in nnx.to_flat_state(after)
    )


@cache
def _keeping(kind: Any) -> type:
    """The same kind of layer, told by each call that it does not train."""
    if kind is nnx.BatchNorm:
        return Keeping
    behind = (Keeping,) if issubclass(kind, nnx.BatchNorm) else ()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _in_inference(kind.__call__, self, args, kwargs, lambda name: None)
        return kind.__call__(self, *args, **kwargs)

    return called_by(kind, call, *behind)


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
    if context.method_name != "__call__" or not _holds_statistics(module):
        return method(*args, **kwargs)
    settings = {name: vars(module)[name] for name in INFERENCE if isinstance(vars(module).get(name), bool)}
    args, kwargs = _in_inference(type(module).__call__, module, args, kwargs, settings.get)
    for name in settings:  # the module is a copy that flax makes for this call
        object.__setattr__(module, name, INFERENCE[name])
    try:
        return method(*args, **kwargs)
    finally:
        for name, value in settings.items():
            object.__setattr__(module, name, value)


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
