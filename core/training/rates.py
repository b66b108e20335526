"""Learning rates that differ by part of the network: pretrained layers usually need smaller steps than fresh ones
(Howard & Ruder 2018, arXiv:1801.06146). A scale multiplies each step's learning rate, so that all parts follow one
schedule.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from headstart.common.errors import FrozenWarning, SettingError, TrunkChangedError
from headstart.graph import Graph
from headstart.models import Model
from headstart.models.model import count_params
from headstart.training.modes import Mode

PRETRAINED = "pretrained"
Scale = float | Mapping[str, float] | None


def checked_scale(scale: Scale) -> Scale:
    """`scale` as None, a float or a dict of floats; SettingError for anything else."""
    if scale is None:
        return None
    if isinstance(scale, Mapping):
        return {str(name): _positive(f"lr_scale[{name!r}]", value) for name, value in scale.items()}
    return _positive("lr_scale", scale)


def _positive(name: str, value: object) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]
        raise SettingError(
            f"{name}={value!r}; expected a positive number, or a dict from modules to such. To train nothing of a "
            "part, put the cut behind it"
        )
    return float(value)  # type: ignore[arg-type]


def check_modules(params: Iterable[str], scale: Scale) -> None:
    """SettingError for a module that has no parameters; names near ones."""
    if not isinstance(scale, Mapping):
        return
    modules = {PRETRAINED}
    for name in params:
        parts = name.split(".")
        modules.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    for name in scale:
        if name not in modules:
            near = difflib.get_close_matches(name, sorted(modules), n=3)
            raise SettingError(
                f"lr_scale names {name!r}, which has no parameters; expected {PRETRAINED!r}, a module or parameter"
                + (f", such as {', '.join(near)}" if near else "")
            )


def rate_multiples(
    params: Iterable[str], fresh: Collection[str], scale: Scale, kept: Collection[str] = ()
) -> dict[str, float]:
    """Parameter -> multiple, where that is not 1. The innermost module that `scale` names decides. "pretrained",
    or a plain number, is for parameters outside of `fresh` that lie in no named module. Those in `kept` have 0,
    whatever `scale` says."""
    if scale is None:
        return dict.fromkeys(kept, 0.0)
    table = _table(scale)
    deciding = {name: _deciding(name, fresh, table) for name in params}
    multiples = {name: table[module] for name, module in deciding.items() if module and table[module] != 1}
    return multiples | dict.fromkeys(kept, 0.0)


def _table(scale: float | Mapping[str, float]) -> Mapping[str, float]:
    return scale if isinstance(scale, Mapping) else {PRETRAINED: scale}


def _deciding(name: str, fresh: Collection[str], table: Mapping[str, float]) -> str | None:
    """The entry of the table that is a parameter's; None where it has none."""
    parts = name.split(".")
    inner = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((module for module in inner + [PRETRAINED] * (name not in fresh) if module in table), None)


def warn_of_scale(trained: Iterable[tuple[Collection[str], Collection[str]]], scale: Scale) -> None:
    """FrozenWarning for entries of `scale` that change no rate, as nothing that is trained is theirs: a module in
    the frozen trunk, or pretrained layers where all that is trained is fresh. `trained`: of each training that the
    scale goes to the parameters that are trained, and those that are fresh."""
    if scale is None:
        return
    table = _table(scale)
    used = {_deciding(name, fresh, table) for names, fresh in trained for name in names}
    for module in sorted(table.keys() - used):
        further = "further " if len(table) > 1 else ""
        what = f"no {further}pretrained layer" if module == PRETRAINED else "none of its parameters"
        warnings.warn(
            f"lr_scale={scale!r} changes nothing of {module!r}: {what} is trained", FrozenWarning, stacklevel=4
        )


def kept_by_owner(graph: Graph, scratch: bool) -> frozenset[str]:
    """The parameters of a graph to be trained that the owner of a wrapped module froze before wrapping. They stay
    as they are in every mode that starts from weights. SettingError where that leaves nothing to train."""
    kept = frozenset() if scratch else graph.fixed()
    if kept and not graph.param_shapes().keys() - graph.buffers() - kept:
        raise SettingError(
            f"all {len(kept)} parameters that would be trained are frozen in the wrapped module, as "
            f"{sorted(kept)[0]!r} is, and stay so. Thaw what is to be trained before hs.wrap, or pass head= for a "
            "fresh one"
        )
    return kept


def trained_count(graph: Graph, scratch: bool) -> int:
    """How many numbers are trained of a graph, without those that their owner froze."""
    shapes = graph.param_shapes()
    return count_params(graph) - (0 if scratch else sum(math.prod(shapes[name]) for name in graph.fixed()))


def check_kept(kept: Collection[str], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    """TrunkChangedError where training has changed a parameter that its owner froze."""
    for name in sorted(kept):
        if not np.array_equal(before[name], after[name], equal_nan=before[name].dtype.kind == "f"):
            raise TrunkChangedError(
                f"training changed {name!r}, which is frozen in the wrapped module; this is a bug"
            )


def warn_frozen(model: Model, mode: Mode) -> None:
    """FrozenWarning where a mode trains everything, and the owner of a wrapped module has frozen all of its
    trunk."""
    if not mode.pretrained or (mode.frozen and not mode.then_all) or not (fixed := model.graph.fixed()):
        return
    graph = model.graph.upto(model.default_cut)
    trained = graph.param_shapes().keys() - graph.buffers()
    if trained and trained <= fixed:
        warnings.warn(
            f"mode {mode.name!r} trains everything, but all of the wrapped trunk's parameters are frozen in the "
            "module itself, and stay as they are. Thaw them before hs.wrap if they are to be trained",
            FrozenWarning,
            stacklevel=3,
        )
