"""Which axis of a tensor holds the channels, told by what is done with it: a map may be `(n, c, h, w)` or
`(n, h, w, c)`, tokens `(n, t, c)` or `(n, c, t)`, and shapes alone do not say.

One run of the module is watched. A convolution has channels on the second axis of what it takes and gives, a layer
norm on the last, and so on; axes are followed through transpositions and reshapes. Norms, convolutions and pooling
count for more than linear layers, which are also used to mix tokens.

Invariant: watching changes nothing that is computed, and what is not understood is not guessed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

Labels = frozenset[Any]
STRONG, WEAK = "strong", "weak"
NOTHING: Labels = frozenset()
ATTRIBUTE = "_headstart_axes"

SECOND = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "batch_norm",
    "instance_norm", "group_norm", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "lp_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "interpolate",
    "max_pool1d_with_indices", "max_pool2d_with_indices", "pixel_shuffle", "pixel_unshuffle",
)  # fmt: skip
PERMUTING = ("permute", "transpose", "swapaxes", "swapdims", "movedim")
RESHAPING = ("reshape", "view", "flatten", "unflatten", "unsqueeze", "squeeze", "reshape_as", "view_as")
REDUCING = ("mean", "sum", "amax", "amin", "max", "logsumexp", "std", "var")
OPERATORS = (
    "__getitem__", "__matmul__", "__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__truediv__",
    "__iadd__", "__imul__",
)  # fmt: skip
SPLITTING = ("chunk", "split", "tensor_split", "unsafe_chunk", "unsafe_split")


class Watched(TorchFunctionMode):
    """Follows axes through whatever runs inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.evidence: list[tuple[int, str]] = []
        """(axis of the value that was marked, how much it counts), as it is used"""

    def mark(self, value: torch.Tensor) -> tuple[int | None, str]:
        """From now on the uses of `value` are evidence. What is known of it by how it was made: (the axis of the
        channels or None, how much that counts)."""
        labels = labels_of(value)
        made = next(
            ((axes[0], strength) for strength in (STRONG, WEAK) if len(axes := _with(labels, strength)) == 1),
            (None, WEAK),
        )
        if _with(labels, STRONG) and made[1] == WEAK:
            made = (None, WEAK)
        own = [labels[axis] | {axis} for axis in range(value.ndim)]
        _label(value, own)
        return made

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        value = function(*args, **kwargs)
        with contextlib.suppress(Exception):  # what is not understood is not followed
            self._follow(getattr(function, "__name__", ""), args, kwargs, value)
        return value

    def _follow(self, name: str, args: Any, kwargs: Any, value: Any) -> None:
        tensors = [argument for argument in _flat(args) if isinstance(argument, torch.Tensor)]
        if not tensors or (name.startswith("__") and name not in OPERATORS):
            return
        x = tensors[0]
        labels = labels_of(x)
        name = name if name.startswith("__") else name.removesuffix("_")  # in place
        if name in SECOND and x.ndim > 1:
            self._used(labels, 1, STRONG)
            if name.startswith(("conv", "pixel")):
                _label(value, [*labels[:1], frozenset({STRONG}), *([NOTHING] * (value.ndim - 2))])
            else:
                _label(_first(value), [*labels[:1], labels[1] | {STRONG}, *labels[2:]])
        elif name in ("layer_norm", "rms_norm"):
            shape = args[1] if len(args) > 1 else kwargs.get("normalized_shape", ())
            if len(shape) == 1:
                self._used(labels, -1, STRONG)
                _label(value, [*labels[:-1], labels[-1] | {STRONG}])
            else:
                _label(value, labels)
        elif name == "linear":
            self._used(labels, -1, WEAK)
            _label(value, [*labels[:-1], frozenset({WEAK})])
        elif name in REDUCING:
            self._reduced(x, labels, args, kwargs, _first(value))
        elif name in PERMUTING:
            _label(value, _permuted(x, labels, getattr(torch, name), args, kwargs))
        elif name in RESHAPING:
            _label(value, reshaped(labels, tuple(x.shape), tuple(value.shape)))
        elif name in SPLITTING:
            for part in value:
                _label(part, labels)
        elif name == "__getitem__":
            _label(value, _indexed(labels, args[1]))
        elif name in ("matmul", "bmm", "__matmul__"):
            other = labels_of(tensors[1])
            if value.ndim == x.ndim == tensors[1].ndim:
                _label(value, [*labels[:-1], other[-1]])
        elif name in ("cat", "concat", "stack") and name != "stack":
            _label(value, next((labels_of(t) for t in tensors if any(labels_of(t))), labels))
        else:
            self._elementwise(tensors, value)

    def _elementwise(self, tensors: Sequence[torch.Tensor], value: Any) -> None:
        """And whatever gives the shape that it takes."""
        value = _first(value)
        if not isinstance(value, torch.Tensor):
            return
        alike = [labels_of(tensor) for tensor in tensors if tensor.shape == value.shape]
        if alike:
            _label(value, [frozenset().union(*axis) for axis in zip(*alike, strict=True)])

    def _reduced(self, x: torch.Tensor, labels: list[Labels], args: Any, kwargs: Any, value: Any) -> None:
        axes = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
        if axes is None or isinstance(axes, bool):
            return
        gone = {axis % x.ndim for axis in (axes if isinstance(axes, list | tuple) else [axes])}
        left = [axis for axis in range(1, x.ndim) if axis not in gone]
        if 0 not in gone and len(left) == 1 and len(gone) > 1:
            self._used(labels, left[0], STRONG)
        kept = value.ndim == x.ndim
        _label(value, [labels[axis] for axis in range(x.ndim) if kept or axis not in gone])

    def _used(self, labels: Sequence[Labels], axis: int, strength: str) -> None:
        """The axis holds channels."""
        own = [label for label in labels[axis] if isinstance(label, int)]
        if len(own) == 1 and own[0] > 0:
            self.evidence.append((own[0], strength))


def labels_of(x: torch.Tensor) -> list[Labels]:
    """What is known of each axis."""
    labels: list[Labels] = getattr(x, ATTRIBUTE, None) or [NOTHING] * x.ndim
    return labels


def _label(x: Any, labels: Sequence[Labels]) -> None:
    if isinstance(x, torch.Tensor) and len(labels) == x.ndim:
        setattr(x, ATTRIBUTE, list(labels))


def _with(labels: Sequence[Labels], strength: str) -> list[int]:
    return [axis for axis, label in enumerate(labels) if axis and strength in label]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _flat(args: Any) -> Iterator[Any]:
    for argument in args:
        if isinstance(argument, list | tuple):
            yield from _flat(argument)
        else:
            yield argument


def _permuted(x: torch.Tensor, labels: list[Labels], function: Any, args: Any, kwargs: Any) -> list[Labels]:
    """By doing the same to a tensor whose sides are numbered."""
    numbered = torch.empty([axis + 1 for axis in range(x.ndim)], device="meta")
    dims = args[1:]
    if getattr(function, "__name__", "") == "permute" and dims and isinstance(dims[0], int):
        dims = (dims,)
    turned = function(numbered, *dims, **kwargs)
    return [labels[side - 1] for side in turned.shape]


def reshaped(labels: Sequence[Labels], old: Sequence[int], new: Sequence[int]) -> list[Labels]:
    """Groups of axes with equal products belong together."""
    found: list[Labels] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, second = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while math.prod(old[first:i]) != math.prod(new[second:j]):
            if math.prod(old[first:i]) < math.prod(new[second:j]) and i < len(old):
                i += 1
            elif j < len(new):
                j += 1
            else:
                break
        found += [frozenset().union(*labels[first:i])] * (j - second)
    return found


def _indexed(labels: list[Labels], index: Any) -> list[Labels]:
    indexed: list[Labels] = []
    steps = list(index) if isinstance(index, tuple) else [index]
    axis = 0
    for place, step in enumerate(steps):
        if step is None:
            indexed.append(NOTHING)
        elif isinstance(step, int):
            axis += 1
        elif isinstance(step, slice):
            indexed.append(labels[axis])
            axis += 1
        elif step is Ellipsis:
            stop = len(labels) - sum(later is not None for later in steps[place + 1 :])
            indexed += labels[axis:stop]
            axis = stop
        else:
            return []
    return indexed + labels[axis:]


def channels(watched: Watched, made: tuple[int | None, str]) -> int | None:
    """The axis of the marked value that holds the channels, by how it is used and how it was made; None where
    neither says it, or one says it otherwise than the other."""
    used = next((axis for axis, strength in watched.evidence if strength == STRONG), None)
    axis, strength = made
    if used is not None:
        return used if strength == WEAK or axis in (None, used) else None
    if axis is not None and strength == STRONG:
        return axis
    weak = next((side for side, _ in watched.evidence), None)
    if weak is not None and axis is not None and weak != axis:
        return None
    return weak if weak is not None else axis


class Walk(fx.Interpreter):
    """Runs a traced graph, and marks what some of its nodes give."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        places: Collection[fx.Node],
        mark: Callable[[fx.Node, Any], None],
    ) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.places, self.mark = places, mark

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node in self.places:
            self.mark(node, value)
        return value

    def given(self, inputs: Sequence[fx.Node], batch: Any) -> None:
        """Run it on a batch: of a dict, by the inputs' names where there are several or it has one so called."""
        env: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node.op == "placeholder":
                env[node] = node.args[0] if node.args else None
                if node in inputs:
                    named = isinstance(batch, dict) and node.target in batch
                    env[node] = batch[node.target] if named else batch
        self.run(initial_env=env)
