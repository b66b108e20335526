"""A flax.linen module with its variables, as an NNX module: called, stopped and watched as it is in linen.

Invariant: what is in the collection `params` is trained, and no other: what training writes elsewhere, such as
running statistics, is written to, and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import unfreeze

from headstart.backends.jax.classifier import labelled, noted
from headstart.backends.jax.joining import Reading
from headstart.backends.jax.modes import switched
from headstart.backends.jax.norms import COLLECTION, held_by, with_kept
from headstart.backends.jax.parts import Function, Stop, joined, step
from headstart.backends.jax.statistics import PARAMS
from headstart.common.errors import SettingError
from headstart.models.endings import is_product

ROOT = ""


class Bridged(Function):
    """The module with its variables."""

    def __init__(self, module: linen.Module, variables: Any) -> None:
        super().__init__(module.apply, variables)
        self.module = module
        self.cut, self.before = ROOT, False
        """the submodule at which a call ends, and whether with what it takes"""
        self.reading: Reading | None = None
        """the submodules, if there are several, at the last of which a call ends with what all of them take"""
        self.deterministic = True  # which NNX's own train() and eval() set
        self.streams = nnx.Rngs(0)
        places = [path for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
        self.names = tuple(joined(map(step, path)) for path in places)
        """of the variables: their collections and paths"""
        self.others = tuple(sorted(variables.keys() - {PARAMS}))

    @property
    def calling(self) -> Any:
        return type(self.module).__call__

    @property
    def settings(self) -> Mapping[str, Any]:
        return vars(self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        variables = self.params()
        if self.dtype is not None:
            variables, args, kwargs = jax.tree.map(self._cast, (variables, args, kwargs))
        with linen.intercept_methods(self._intercept):
            if self.deterministic:
                return switched(self.module, False).apply(variables, *args, **kwargs)
            if self.keeps_statistics:
                return with_kept(type(self.module).__name__, lambda: self._learn(variables, args, kwargs))
            return self._learn(variables, args, kwargs)

    def _learn(self, variables: Any, args: Any, kwargs: Any) -> Any:
        drawn = {"dropout": self.streams(), "params": self.streams()}
        written_to = [name for name in self.others if name != COLLECTION or not self.keeps_statistics]
        module = switched(self.module, True)
        try:
            value, written = module.apply(variables, *args, rngs=drawn, mutable=written_to, **kwargs)
        except Ended as end:
            self._write(end.written)
            raise
        self._write(written)
        return value

    def _intercept(self, method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = path_of(context.module)
        reads = self.reading is not None and path in self.reading.given
        if context.method_name != "__call__" or not (reads or (path == self.cut and self.cut)):
            return method(*args, **kwargs)
        taken = next(iter((*args, *kwargs.values())), None)
        try:
            if reads:
                assert self.reading is not None
                return self.reading.instead(path, taken)
            value = taken if self.before else method(*args, **kwargs)
        except Stop as stop:
            value = stop.value
        raise Ended(value, context.module.scope.root.mutable_variables())

    def _write(self, written: Any) -> None:
        """Keep what training wrote of the collections that there were; what it sowed, which grows, is nobody's."""
        before = self.params()
        after = {name: written.get(name, values) if name != PARAMS else values for name, values in before.items()}
        if jax.tree.structure(after, is_leaf=_is_sown) != jax.tree.structure(before, is_leaf=_is_sown):
            raise SettingError(
                f"in training {type(self.module).__name__} makes variables that it was not given; pass as params= "
                "all that its init made"
            )
        kept = jax.tree.map(lambda old, new: old if _is_sown(old) else new, before, after, is_leaf=_is_sown)
        for leaf, value in zip(self.leaves, jax.tree.leaves(kept), strict=True):
            if not isinstance(leaf, nnx.Param):
                leaf[...] = value.astype(leaf[...].dtype)


def _is_sown(value: Any) -> bool:
    return isinstance(value, tuple)


class Ended(Stop):
    """`Stop`, with the variables that were written to until then."""

    def __init__(self, value: Any, written: Any) -> None:
        super().__init__(value)
        self.written = written


def path_of(module: linen.Module) -> str:
    return ".".join(module.path)


def calls(run: Callable[[], Any]) -> list[tuple[str, Any, Any]]:
    """Of each call of a submodule in a run, in the order of their ends: its path, what it takes and gives."""
    called: list[tuple[str, Any, Any]] = []

    def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        value = method(*args, **kwargs)
        if context.method_name == "__call__" and path_of(context.module):
            called.append((path_of(context.module), next(iter((*args, *kwargs.values())), None), value))
        return value

    with linen.intercept_methods(intercept):
        run()
    return called


def watched(run: Callable[[], Any]) -> Any:
    """What a run gives, whose layers are noted."""

    def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = path_of(context.module)
        if context.method_name != "__call__" or not path:
            return method(*args, **kwargs)
        return noted(path, method, args, kwargs, _label_of(context.module, path, args, kwargs))

    with linen.intercept_methods(intercept):
        return run()


def _label_of(module: linen.Module, path: str, args: Any, kwargs: Any) -> str:
    """As `classifier.label_of` has it for NNX."""
    said = (getattr(module, "einsum_str", None), kwargs.get("einsum_str"), *args[1:2])
    single = type(module) is linen.Einsum and any(map(is_product, said))
    linear = single or type(module) is linen.Dense or _is_dense(module)
    convolves = type(module) is linen.Conv and not 1 < module.feature_group_count == module.features
    return labelled(path, linear, module.kernel_size if convolves else None)


def _is_dense(module: linen.Module) -> bool:
    """Whether it is a general layer that does what a dense one does."""
    single = type(module) is linen.DenseGeneral and isinstance(module.features, int)
    return single and module.axis in (-1, (-1,)) and module.batch_dims in ((), 0)


def is_linen(native: Any) -> bool:
    """Also where NNX's bridge holds it, whose call says nothing of flags and lets nothing be written to."""
    return isinstance(native, linen.Module | nnx.bridge.ToNNX)


def bridged(module: Any, variables: Any) -> Bridged:
    """SettingError unless `variables` are such as `module.init` makes."""
    said = "what init made, as {'params': ..., 'batch_stats': ...}"
    if isinstance(module, nnx.bridge.ToNNX):
        module, variables = module.to_nnx__module, variables or held_by(module)
        if not variables:
            raise SettingError(
                f"{type(module).__name__} in nnx.bridge.ToNNX has no variables yet: lazy_init makes them"
            )
    if module.scope is not None:
        module, bound = module.unbind()
        variables = bound if variables is None else variables
    if variables is None:
        raise SettingError(
            f"{type(module).__name__} is a flax.linen module, which holds no parameters: pass params=, {said}, or "
            "the module bound to it, as a head, too: module.bind(variables)"
        )
    names = list(variables) if hasattr(variables, "keys") else []
    if PARAMS not in names:
        raise SettingError(
            f"params= of a flax.linen module is {said}; received {names or type(variables).__name__}"
        )
    return Bridged(module, jax.tree.map(jnp.asarray, dict(unfreeze(variables))))
