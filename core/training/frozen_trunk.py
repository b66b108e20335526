"""A frozen trunk is bit-equal before and after, and that is checked on the device's own copy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headstart.common.errors import TrunkChangedError
from headstart.contract.running import Trunk
from headstart.features.inference import frozen
from headstart.models import Model
from headstart.store.keys import params_digest


def check_trunk(
    model: Model, node: str, params: Mapping[str, np.ndarray], trunk: Trunk | None, precision: str
) -> None:
    """TrunkChangedError unless the frozen trunk up to `node` has the weights it had before: in `params`, those of
    trunk and head joined, and on the device that ran it. `trunk`: None where none was run; else
    `precision` says in which it was."""
    names = model.graph.upto(node).param_shapes()
    if not all(_same_bits(params[name], model.params[name]) for name in names):
        raise TrunkChangedError(f"training changed weights of the frozen trunk up to {node!r}; this is a bug")
    if trunk is not None:
        folded = frozen(model.graph.upto(node), model.params, [node], precision=precision)[1]
        now, counters = trunk.params(), model.graph.volatile()
        if moved := sorted(n for n in folded if n not in counters and not _same_bits(now[n], folded[n])):
            why = (
                "this is a bug"
                if model.home is None
                else "the module itself writes to it as it runs, or it is a bug"
            )
            raise TrunkChangedError(
                f"the device's copy of the frozen trunk up to {node!r} is not what it was given: {moved[0]!r} is "
                f"another one ({len(moved)} of {len(folded)} in all); {why}"
            )


def _same_bits(array: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same bits in the same shape: NaN is itself here, and 0 is not -0. Compared,
    since that takes half as long as two digests, and no time at all where both are one array."""
    if array is other:
        return True
    if array.dtype != other.dtype or array.shape != other.shape:
        return params_digest({"": array}) == params_digest({"": other})  # to which byte order is all one
    return np.array_equal(_bytes(array), _bytes(other))


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
