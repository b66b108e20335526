"""What the classifiers at a traced module's end read, which a fresh one is to read in their place.

Several may read arrays of their own: a distilled DeiT has a classifier on its class token and one on its
distillation token, and averages their logits. These arrays then stand side by side.

Invariant: a linear layer on what a fresh classifier gets can be what all of them are together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import fx, nn

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.axes import Walk
from headstart.backends.torch.chance import undrawn
from headstart.backends.torch.classifier import Read, is_matrix, ranking
from headstart.backends.torch.ending import at_end, shapes_of
from headstart.backends.torch.learning import counterpart
from headstart.backends.torch.shapes import found_by
from headstart.backends.torch.trace import Call, Part, Traced, sharing
from headstart.common.errors import CutError
from headstart.contract.wrapping import BEFORE, END
from headstart.data.rows import count, with_one_more
from headstart.graph.cuts import Paths
from headstart.models import several
from headstart.models.feature_layout import mask_of

T = TypeVar("T")


class Place(NamedTuple):
    """Where a trunk ends for a fresh classifier."""

    cut: str
    reads: Sequence[tuple[fx.Node, int]] = ()
    """what stands side by side there, with the axis of the channels; (): it is a node of the trace"""

    def put_into(self, traced: Traced, learning: Traced | None) -> None:
        """Put the node that is meant into the trace, and into the one of training if it has the same nodes."""
        if not self.reads or self.cut in traced.nodes:
            return
        nodes, axes = [node for node, _ in self.reads], [axis for _, axis in self.reads]
        there = [] if learning is None else [counterpart(traced, learning, node) for node in nodes]
        traced.add(self.cut, joined, nodes, axes)
        if learning is not None and None not in there:
            learning.add(self.cut, joined, [node for node in there if node is not None], axes)


def joined(arrays: Sequence[torch.Tensor], axes: Sequence[int]) -> torch.Tensor:
    """`(n, c)` of rows `(n, c1)`, `(n, c2)` ... side by side; of maps and tokens, whose channels are on these
    axes, the means."""
    pairs = zip(arrays, axes, strict=True)
    return torch.cat([x if x.ndim == 2 else x.movedim(axis, -1).flatten(1, -2).mean(1) for x, axis in pairs], 1)


def distinct(values: Mapping[Any, torch.Tensor]) -> list[Any]:
    """The keys of tensors that do not lie where one before does. Equal numbers say nothing: tokens may begin at
    zero, and learn to differ."""
    places = {key: (x.data_ptr(), x.shape, x.stride()) for key, x in values.items()}
    return list({place: key for key, place in reversed(places.items())}.values())[::-1]


def check_joinable(
    names: Collection[str], values: Sequence[torch.Tensor], axes: Sequence[int | None], example: Any
) -> None:
    """CutError unless what the classifiers called `names` read can stand side by side."""
    shapes = {} if not isinstance(example, dict) else {key: tuple(x.shape[1:]) for key, x in example.items()}
    known = all(value.ndim == 2 or axis is not None for value, axis in zip(values, axes, strict=True))
    if not known or any(value.ndim == 3 and mask_of(shapes, value.shape[1]) for value in values):
        raise CutError(
            f"the classifiers at the module's end, {', '.join(map(repr, names))}, read arrays of their own, of "
            f"{', '.join(str(tuple(value.shape[1:])) for value in values)} a sample, of which one cannot be made; "
            "choose with cut= the name of a submodule or operation in front of them"
        )


def before_classifiers(source: nn.Module, traced: Traced, example: Any) -> Place:
    """Where a fresh classifier comes in the place of the one, or of all of them, at the end."""
    ranks = ranking(source, traced)
    try:
        cut = before_classifier(source, traced, traced.paths)
    except CutError:
        if None in ranks.values():
            raise
        cut = ""
    reads: dict[fx.Node, int | None] = {}
    for read in ranks.values():
        if read is None:
            return Place(cut)
        node, axis = _before_dropout(source, traced, read)
        reads[node] = axis
    if len(reads) == 1:
        return Place(traced.names[next(iter(reads))])
    values = _values(source, traced, [*reads, *([traced.nodes[cut]] if cut else [])], example)
    if cut and values[traced.nodes[cut]].ndim == 2:
        return Place(cut)  # rows, of which all that they read is made
    order = list(traced.graph.nodes)
    kept = sorted(reads, key=order.index)
    names = [traced.names[node] for node in ranks]
    check_joinable(names, [values[node] for node in kept], [reads[node] for node in kept], example)
    names.sort(key=lambda name: order.index(traced.nodes[name]))
    return Place(f"{BEFORE}{', '.join(names)}", [(node, reads[node] or -1) for node in kept])


def logits_of_tokens(source: nn.Module, traced: Traced, cut: fx.Node, example: Any) -> torch.Tensor | None:
    """`(n, t, classes)` that the module's one classifier makes of the tokens at a cut; None where it has several,
    or reads something else."""
    ranks = ranking(source, traced)
    if len(ranks) != 1:
        return None
    ((made, read),) = ranks.items()
    if read is None or cut not in (read[0], _before_dropout(source, traced, read)[0]):
        return None
    logits = _values(source, traced, [made], example)[made]
    return logits if logits.ndim == 3 else None


FAITHFUL = 1e-3  # of the largest number; a branch that a trace does not take makes far more


def faithful(traced: Traced | None, source: nn.Module, call: Call, value: Any, example: Any) -> Traced | None:
    """The trace; None where it gives something else than the module, as where code asks for the type of what it
    takes, and a trace has another than torch.Tensor there. Where a rest or a named cut was asked for, what was
    traced is compared with the module itself anyhow. `value`: what the module gave for the example."""
    if traced is None or traced.result is None or (end := at_end(value, call.row)) is None:
        return traced
    try:
        part = Part(source, {False: traced.slice(None, traced.result)}, call.names if call.by_name else ()).eval()
        with torch.no_grad(), undrawn(0):
            given = sharing(part, buffers=False)(batch_of(example))
    except Exception:  # as of samples that it does not take; whoever runs it will see
        return traced
    if given.shape != end.shape:
        return None
    far = (given.double() - end.double()).abs().nan_to_num(0.0).max() if end.numel() else 0.0
    return traced if far <= FAITHFUL * end.double().abs().nan_to_num(0.0).max() else None


def before_rest(source: nn.Module, traced: Traced, example: Any) -> str:
    """Where a trunk ends, of which all that comes behind is the head: with a row for each sample."""
    cut = before_classifier(source, traced, traced.paths)
    legal = traced.paths.cuts[: traced.paths.cuts.index(cut) + 1]
    with contextlib.suppress(Exception):  # it may be made for so many samples as there are in the example
        nodes = [traced.nodes[name] for name in legal]
        two = found_by(partial(_seen, traced, nodes, _shape), source, example)
        with torch.no_grad():
            # with numbers: code may keep what it makes for so many samples where others will look for it
            shell, more = sharing(source, buffers=False), batch_of(with_one_more(example))
            three = _seen(traced, nodes, _shape, shell, more)
        rows = [name for name in legal if _is_of_samples(*(found[traced.nodes[name]] for found in (two, three)))]
        return rows[-1] if rows else cut
    return cut


def shapes_among(run: Callable[[nn.Module, Any], Any], module: nn.Module, value: Any, example: Any) -> Any:
    """Of the tensors in what a module gives for the example, () for those that are no features: see
    `several.following`."""

    def more() -> Any:
        with torch.no_grad():
            return shapes_of(run(sharing(module, buffers=False), batch_of(with_one_more(example))))

    return several.following(shapes_of(value), count(example), more)


def _is_of_samples(two: tuple[int, ...], three: tuple[int, ...]) -> bool:
    """By the shapes of what is given for two samples, and for three."""
    return (two[:1], three[:1]) == ((2,), (3,)) and two[1:] == three[1:]


def _seen(
    traced: Traced, nodes: Collection[fx.Node], of: Callable[[Any], T], shell: nn.Module, batch: Any
) -> dict[fx.Node, T]:
    """What is made `of` what the nodes give, as a copy of the module runs on the batch."""
    found: dict[fx.Node, T] = {}

    def mark(node: fx.Node, value: Any) -> None:
        found[node] = of(value)

    Walk(shell, traced.graph, nodes, mark).given(traced.inputs, batch)
    return found


def _shape(value: Any) -> tuple[int, ...]:
    """() for what is no tensor."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _before_dropout(source: nn.Module, traced: Traced, read: Read) -> Read:
    node, axis = read
    while _is_dropout(source, node) and node.all_input_nodes[:1] and node.all_input_nodes[0] in traced.names:
        node = node.all_input_nodes[0]
    return node, axis


def _values(
    source: nn.Module, traced: Traced, nodes: Collection[fx.Node], example: Any
) -> dict[fx.Node, torch.Tensor]:
    """What the nodes give for the example."""
    with torch.no_grad():  # copies: what comes behind may change it in place
        return _seen(traced, nodes, torch.clone, sharing(source, buffers=False), batch_of(example))


def before_classifier(source: nn.Module, traced: Traced, paths: Paths) -> str:
    """The last cut that has the classifier behind it, or else the last layer, before the dropout that may stand
    there."""
    parameters = dict(source.named_parameters(remove_duplicate=False))  # a tied one counts where it is taken, too
    # a norm, a temperature or an offset alone is no layer
    parameters = {name: p for name, p in parameters.items() if is_matrix(p)} or parameters
    needing = {traced.names[node] for node in ranking(source, traced)}
    nodes = [] if needing else [*traced.graph.nodes] if traced.result is None else traced.needed(traced.result)
    for node in nodes:
        own = [name for name in parameters if str(node.target) == name or name.startswith(f"{node.target}.")]
        if node.op == "call_module" and own and node in traced.names:
            needing.add(traced.names[node])
        if node.op == "get_attr" and own:
            needing |= _taking(node, traced)
    order = list(traced.nodes)
    last = max((order.index(name) for name in needing), default=-1)
    legal = [cut for cut in paths.cuts if order.index(cut) < last]
    if not legal:
        raise CutError(
            f"{type(source).__name__} has no place before its last layer where it can be cut: nothing there holds "
            f"all that comes behind. head='linear' with cut={END!r} puts a fresh classifier behind what it gives, "
            "with the name of a submodule behind what that gives"
        )
    while len(legal) > 1 and _is_dropout(source, traced.nodes[legal[-1]]):
        legal.pop()
    return legal[-1]


def _taking(node: fx.Node, traced: Traced) -> set[str]:
    """What takes a parameter: as it is, or what was made of it alone, as of the weights of cosines."""
    taking: set[str] = set()
    for user in node.users:
        taking |= {traced.names[user]} if user in traced.names else _taking(user, traced)
    return taking


def _is_dropout(source: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(source.get_submodule(str(node.target)), nn.modules.dropout._DropoutNd | nn.Identity)
    return "dropout" in getattr(node.target, "__name__", "")
