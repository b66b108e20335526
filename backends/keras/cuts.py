"""Where a functional keras.Model may be cut: its calls by name, and the paths between them.

Invariant: a name means the same call in a model and in its copies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from headstart.backends.keras.between import is_temperature
from headstart.backends.keras.classifier import is_nested
from headstart.backends.keras.copying import calls, functional, is_functional, structure_of
from headstart.backends.keras.nested import SEPARATOR, has_models
from headstart.common.errors import CutError
from headstart.contract.wrapping import END, WrapRequest
from headstart.graph.cuts import Paths, distinct_names, ends_beside
from headstart.models.endings import reached
from headstart.models.several import LOGITS, Entry, arrays, dotted, entry_in, row_of, tell_row

CHANNELS_FIRST = "channels_first"
# what may leave a shape as it is and turn its axes round
TURNING = ("Permute", "Transpose", "Moveaxis", "Swapaxes", "Reshape")


def numbered(named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Calls by their names, with a number behind one that comes again."""
    names, found = zip(*named, strict=True)
    return dict(zip(distinct_names(names), found, strict=True))


def nodes_of(model: keras.Model, shown: Mapping[str, str] = {}) -> dict[str, Any]:
    """The calls of layers and operations in order, by the layer's name, or as `shown` has it."""
    return numbered((shown.get(node.operation.name, node.operation.name), node) for node in calls(model))


def paths_of(model: keras.Model, nodes: Mapping[str, Any]) -> Paths:
    first, last = ends_beside([name for name, node in nodes.items() if not node.is_input])
    names = {id(node): first if node.is_input else name for name, node in nodes.items()}
    taken: dict[str, tuple[str, ...]] = {first: ()}
    for name, node in nodes.items():
        if not node.is_input:
            taken[name] = tuple(dict.fromkeys(names[id(parent)] for parent in node.parent_nodes))
    made = {id(tensor): name for name, node in nodes.items() for tensor in node.outputs}
    ends = tuple(dict.fromkeys(made[id(tensor)] for tensor in model.outputs))
    if len(ends) > 1:
        taken[last] = ends
    return Paths(taken, ends[0] if len(ends) == 1 else last, _short(taken))


def _short(taken: Mapping[str, Any]) -> dict[str, str]:
    """Layers inside of models by their own names, where only one is called so."""
    names: dict[str, list[str]] = {}
    for name in taken:
        if SEPARATOR in name:
            names.setdefault(name.rpartition(SEPARATOR)[2], []).append(name)
    return {short: paths[0] for short, paths in names.items() if len(paths) == 1 and short not in taken}


@dataclass(frozen=True)
class Cut:
    """A tensor of a model: what a call gives, or one of several things that it does."""

    node: str
    """the call's name in `nodes_of`"""
    index: int = 0
    name: str = ""
    """as it is said in `cut=`"""

    def of(self, nodes: Mapping[str, Any]) -> Any:
        return nodes[self.node].outputs[self.index]

    def place(self, numbers: str, order: Sequence[str]) -> str:
        """The same where layers are called otherwise. `order`: of all calls; `numbers`: what counts them."""
        return f"{numbers} {order.index(self.node)}" + (f", tensor {self.index}" if self.index else "")


def resolved(model: keras.Model, nodes: Mapping[str, Any], paths: Paths, name: str) -> tuple[str, str]:
    """The call that `name` means, and which of several tensors that it gives; "" where that is not said. A tensor
    is named as the model's output is, or behind the call's name and a dot."""
    try:
        return paths.resolve(name), ""
    except CutError as error:
        ends = {dotted(entry): tensor for entry, tensor in arrays(structure_of(model), keras.KerasTensor)}
        if name in ends:
            node, index = made_by(nodes, ends[name])
            return node, dotted(_entries(nodes[node])[index])
        before = [node for node, call in nodes.items() if len(call.outputs) > 1 and name.startswith(f"{node}.")]
        if not before:
            raise error
        node = max(before, key=len)
        return node, name[len(node) + 1 :]


def chosen(model: keras.Model, nodes: Mapping[str, Any], paths: Paths, request: WrapRequest, samples: int) -> Cut:
    """The cut that is asked for, which is legal; CutError where it is none, or none can be told from others."""
    assert request.cut is not None
    name, entry_name = resolved(model, nodes, paths, request.cut)
    if request.rest:
        name = paths.check(name if entry_name else request.cut)
    elif name == paths.output and name not in nodes:
        return at_end(model, nodes, samples)
    # What stands behind it or beside it is thrown away, so it need not be on every path.
    elif name == paths.input:
        paths.check(name)
    return tensor_of(model, nodes, name, entry_name, samples)


def at_end(model: keras.Model, nodes: Mapping[str, Any], samples: int, row: Entry = ()) -> Cut:
    """Which of several tensors that a model gives is taken, by the call that makes it. `row`: see
    `row_at_end`."""
    given = structure_of(model)
    found = dict(arrays(given, keras.KerasTensor))
    entry = entry_in(_shapes(found, samples), "", samples, repr(model.name), type(given).__name__, row=row)
    node, index = made_by(nodes, found[entry])
    return named(node, nodes[node], index)


def row_at_end(model: keras.Model, samples: int) -> Entry:
    """Which of several tensors stands for all that a model gives: what is called its logits, or see
    `several.row_of`, which is said; () where a map or tokens that it gives are made of that, as what a decoder
    gives is of a code."""
    found = dict(arrays(structure_of(model), keras.KerasTensor))
    shapes = _shapes(found, samples)
    if shapes.get((LOGITS,)):
        return (LOGITS,)
    if not (row := row_of(shapes, samples)):
        return ()
    made = {id(tensor): node for node in calls(model) for tensor in node.outputs}
    others = [made[id(x)] for entry, x in found.items() if entry != row and len(x.shape) > 2]
    if made[id(found[row])] in reached(others, lambda node: node.parent_nodes):
        return ()
    tell_row(row, shapes, model.name)
    return row


def tensor_of(model: keras.Model, nodes: Mapping[str, Any], name: str, entry_name: str, samples: int) -> Cut:
    """What a call gives; of several tensors the one that is named, else the only one that is used behind it, else
    what libraries give for features."""
    call = nodes[name]
    used = {id(x) for node in calls(model) for x in node.input_tensors} | {id(x) for x in model.outputs}
    taken = [place for place, tensor in enumerate(call.outputs) if id(tensor) in used]
    if len(call.outputs) == 1 or (len(taken) == 1 and not entry_name):
        return named(name, call, taken[0] if len(taken) == 1 else 0)
    entries = dict(zip(_entries(call), call.outputs, strict=True))
    entry = entry_in(_shapes(entries, samples), entry_name, samples, repr(name), type(call.operation).__name__)
    return named(name, call, list(entries).index(entry))


def named(node: str, call: Any, index: int) -> Cut:
    """One of the tensors that a call gives."""
    entry = _entries(call)[index]
    return Cut(node, index, f"{node}.{dotted(entry)}" if entry else node)


def _entries(call: Any) -> list[Entry]:
    """Where each of the tensors is in what a call gives; Keras keeps no structure of a layer's."""
    if len(call.outputs) == 1:
        return [()]
    if not is_functional(call.operation):
        return [(place,) for place in range(len(call.outputs))]
    found = {id(x): entry for entry, x in arrays(structure_of(call.operation), keras.KerasTensor)}
    return [found[id(x)] for x in functional(call.operation).outputs]


def made_by(nodes: Mapping[str, Any], tensor: Any) -> tuple[str, int]:
    """The call that makes a tensor, and which of its outputs that is."""
    return next((name, i) for name, call in nodes.items() for i, x in enumerate(call.outputs) if x is tensor)


def _shapes(tensors: Mapping[Entry, Any], samples: int) -> dict[Entry, tuple[int, ...]]:
    """Of those that hold floating-point numbers, for so many samples; () for others, and for tables, which have as
    many rows whatever the number of samples."""
    open_ended = any(len(x.shape) and x.shape[0] is None for x in tensors.values())
    return {
        entry: (samples if open_ended else x.shape[0], *x.shape[1:])
        if len(x.shape) and "float" in x.dtype and (x.shape[0] is None or not open_ended)
        else ()
        for entry, x in tensors.items()
    }


def check_single(nodes: Mapping[str, Any], cut: str) -> None:
    """CutError where a layer inside of a model is called again: which call is meant could not be said."""
    layer = nodes[cut].operation
    if SEPARATOR in cut and sum(node.operation is layer for node in nodes.values()) > 1:
        around, _, name = cut.rpartition(SEPARATOR)
        raise CutError(
            f"{name!r} inside of {around!r} is called more than once, so it cannot be cut at; cut outside of "
            f"{around!r}"
        )


def check_order(tensor: Any, cut: str) -> None:
    """CutError where the layers that make a map, or tokens, say that the channels come before the other axes: a
    fresh classifier would average over these in their place."""
    shape = tuple(tensor.shape)
    if len(shape) in (3, 4) and _channels_first(tensor):
        axes = ", ".join(str(axis) for axis in (*range(2, len(shape)), 1))
        raise CutError(
            f"{cut!r} gives {shape[1:]} a sample, the channels first (data_format='channels_first'), over which a "
            f"fresh classifier must not average; put keras.layers.Permute(({axes})) behind it, and cut there"
        )


def _channels_first(tensor: Any) -> bool:
    """As the nearest layer says that has an order, before layers that keep the axes."""
    while True:
        operation, place, index = tensor._keras_history
        if is_functional(operation) and _channels_first(functional(operation).outputs[index]):
            return True
        if (order := getattr(operation, "data_format", None)) is not None:
            return str(order) == CHANNELS_FIRST
        if isinstance(operation, keras.layers.BatchNormalization):
            return operation.axis == 1
        given = operation._inbound_nodes[place].input_tensors
        if type(operation).__name__ in TURNING or not given or tuple(given[0].shape) != tuple(tensor.shape):
            return False
        tensor = given[0]


def before_classifier(
    model: keras.Model, nodes: Mapping[str, Any], paths: Paths, ranks: Collection[str] = ()
) -> str:
    """The last cut that has the classifiers behind it, or else the last trained weights, before the dropout that
    may stand there. `ranks`: the calls of classifiers."""
    order = list(nodes)
    trained = [name for name, node in nodes.items() if is_trained(node)]
    matrices = [name for name in trained if not is_temperature(nodes[name].operation)]
    last = max(map(order.index, ranks or matrices or trained), default=-1)
    legal = [cut for cut in paths.cuts if order.index(cut) < last]
    if not legal:
        raise CutError(f"{model.name} has no place before its last layer where it can be cut")
    while len(legal) > 1 and isinstance(nodes[legal[-1]].operation, keras.layers.Dropout):
        legal.pop()
    return legal[-1]


def is_trained(node: Any) -> bool:
    return bool(getattr(node.operation, "trainable_weights", None))


def is_inside(model: keras.Model, request: WrapRequest) -> bool:
    """Whether the place to cut at is inside of a model that is a layer of this one."""
    if request.cut == END or not has_models(model):
        return False
    nodes = nodes_of(model)
    if request.cut is not None:
        try:
            resolved(model, nodes, paths_of(model, nodes), request.cut)
        except CutError:
            return True
        return False
    if request.fresh:  # behind a classifier that stands in there, a fresh one would see its numbers
        return is_nested(model)
    trained = [node for node in nodes.values() if is_trained(node)]
    if not trained or not is_functional(trained[-1].operation):
        return False
    if sum(map(is_trained, calls(functional(trained[-1].operation)))) == 1:
        return False
    # The rest would be all that has weights.
    return request.rest and len(trained) == 1
