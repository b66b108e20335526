"""Whether what `wrap` has made computes what the user's module computes, and whether that may be kept.

The copy is run on two samples in several ways, and the module itself as its owner runs it: what both give is
compared at the cut, and at the end where the rest of the module is the head.

Invariants: a trunk passes only if a sample's features depend on that sample alone, and are the module's own; a
head only if it gives logits, the module's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.contract.alike import ROUNDINGS, excess
from headstart.contract.protocol import Backend
from headstart.contract.running import Trunk
from headstart.contract.wrapping import HEAD_NODE, TRUNK_NODE, Witnessed, Wrapping
from headstart.data import Arrays, Preprocess
from headstart.data.rows import each
from headstart.graph import Graph, NativePart, Node, Shape
from headstart.models.endings import ENDINGS, are_bounded, are_shares
from headstart.models.running import Ran, watched
from headstart.models.several import STATES

# Repeated runs, and other rows of a batch, move sums by about 1e-6; dropout, noise, batch statistics by far more.
SAME_OUTPUT = 1e-4
EPSILON = 2.0**-23  # of float32
FARTHER = (1e3, -1e3)  # times as large are features of which logits lie far apart
FAR = 8.0  # times as large are the numbers of a sample that must not matter to its neighbour

Run = Callable[[Any], np.ndarray]
"""a part that is built, on a batch as core has it"""


def trunk_nodes(inputs: Preprocess | Arrays, part: NativePart) -> tuple[Node, ...]:
    """The nodes of a wrapped module's trunk, which is `part`."""
    return (
        Node("input", "input", (), {"shape": inputs.shape or None}),
        Node(TRUNK_NODE, "native", ("input",), {"part": part}),
    )


def _built(backend: Backend, graph: Graph, params: Mapping[str, np.ndarray]) -> Trunk:
    prefixed = {f"{graph.output}.{key}": value for key, value in params.items()}
    return backend.trunk(graph, prefixed, [graph.output], backend.place("cpu", "float32"))


def checked_trunk(
    backend: Backend, wrapping: Wrapping, inputs: Preprocess | Arrays, shown: Any
) -> tuple[Wrapping, np.ndarray, Run]:
    """The wrapping, told how a single sample has to be run, what its trunk gives for the two samples, and the
    trunk itself, to be run on more. Refused is a trunk that gives two equal inputs two outputs: in two runs, in
    two rows of a batch, in other company."""
    graph = Graph(trunk_nodes(inputs, wrapping.trunk), TRUNK_NODE)
    trunk = _built(backend, graph, wrapping.params)
    here = f"the trunk up to {wrapping.cut!r}"

    def run(rows: Any) -> np.ndarray:
        return backend.numpy(trunk.run(rows)[TRUNK_NODE])

    with watched({type(backend).__module__.partition(".")[0]}) as ran:
        features = run(shown)
    wrapping = replace(wrapping, trunk=_with_what_ran(wrapping.trunk, ran))
    if not np.isfinite(features).all():
        raise SettingError(f"{here} gives values that are not finite")
    _check_company(here, features, run, shown)
    first = each(lambda array: array[:1], shown)
    if (alone := run(first)).shape != features[:1].shape:
        wrapping = replace(wrapping, trunk=replace(wrapping.trunk, lone=True))
        trunk = _built(backend, Graph(trunk_nodes(inputs, wrapping.trunk), TRUNK_NODE), wrapping.params)
        if (kept := run(first)).shape != features[:1].shape:
            raise SettingError(_lost_axis(here, alone, features))
        alone = kept
    _same(here, features[0], alone[0], "as the only sample of a batch", wrapping.trunk.rounding)
    moved = _moved(wrapping, trunk)
    if trained := sorted(moved - wrapping.trunk.buffers):
        raise SettingError(
            f"{here} writes to its parameter {trained[0]!r} as it runs, so it would be another trunk after every "
            "batch. Do once, before hs.wrap, what it does there, and take it out of its forward"
        )
    return replace(wrapping, trunk=replace(wrapping.trunk, volatile=moved)), features, run


def _with_what_ran(part: NativePart, ran: Ran) -> NativePart:
    from headstart.models.structure import with_what_ran  # here: the zoo's trunks have none

    return replace(part, structure=with_what_ran(part.structure, ran))


def _moved(wrapping: Wrapping, trunk: Trunk) -> frozenset[str]:
    """The parameters and buffers that are other ones since the trunk ran."""
    now = trunk.params()
    return frozenset(
        name
        for name, value in wrapping.params.items()
        if not np.array_equal(now[f"{TRUNK_NODE}.{name}"], value, equal_nan=value.dtype.kind == "f")
    )


def checked_head(
    backend: Backend, head: NativePart, params: Mapping[str, np.ndarray], features: np.ndarray
) -> tuple[NativePart, np.ndarray, Run]:
    """A head that is a module's own, told how a single sample has to be run, its logits `(2, classes)`, and the
    head itself, to be run on more features."""
    shape = features.shape[1:]
    run = _head(backend, head, params, shape)
    with watched({type(backend).__module__.partition(".")[0]}) as ran:
        logits = run(features)
    head = _with_what_ran(head, ran)
    if (alone := run(features[:1])).shape != logits[:1].shape:
        head = replace(head, lone=True)
        run = _head(backend, head, params, shape)
        if (kept := run(features[:1])).shape != logits[:1].shape:
            raise SettingError(_lost_axis("the head", alone, logits))
        alone = kept
    if np.isfinite(logits).all():
        _check_company("the head", logits, run, features)
        _same("the head", logits[0], alone[0], "as the only sample of a batch", head.rounding)
    if are_shares(logits):
        raise SettingError(
            "the head gives probabilities: rows within [0, 1] whose sum is 1. It is trained on logits, and the "
            "softmax that makes these of them could not be taken off; let the module end before it"
        )
    if not np.isfinite(logits).all():
        raise SettingError(
            "the head gives values that are not finite, which name no class. Where a mask of -inf takes classes "
            "out, let the module end before it, or use a large negative number such as -1e4"
        )
    if are_bounded(logits) and are_bounded(*(run(features * factor) for factor in FARTHER)):
        raise SettingError(
            "the head gives numbers within [0, 1] whatever its features are, as a sigmoid does. It is trained on "
            "logits, and what makes these numbers of them could not be taken off; let the module end before it"
        )
    return head, logits, run


def _head(chosen: Backend, part: NativePart, params: Mapping[str, np.ndarray], shape: Shape) -> Run:
    """Features `(n, *shape)` -> logits."""
    nodes = (Node("input", "input", (), {"shape": shape}), Node(HEAD_NODE, "native", ("input",), {"part": part}))
    network = _built(chosen, Graph(nodes, HEAD_NODE), params)
    return lambda rows: chosen.numpy(network.run(rows)[HEAD_NODE])


def check_against_original(
    wrapping: Wrapping, shown: Any, features: np.ndarray, logits: np.ndarray | None
) -> Witnessed:
    """SettingError where the user's module itself gives something else than its copy, for the same samples. What
    it gives, as far as anybody can look."""
    if wrapping.witness is None:
        return Witnessed(None, None)
    original = wrapping.witness(shown)
    if original.cut is not None:
        check_copy(f"at the cut {wrapping.cut!r}", original.cut, features, original)
    if original.end is not None and logits is not None:
        end = ENDINGS[wrapping.ending](logits.astype(np.float64))
        check_copy(
            "at its end",
            original.end,
            end.reshape(original.end.shape) if end.size == original.end.size else end,
            original,
        )
    return original


def check_real(wrapping: Wrapping, pair: Any, run_trunk: Run, run_head: Run | None) -> None:
    """`check_against_original` for two real samples. `run_trunk`, `run_head`: of the parts, as they were checked;
    None for a head that is not the module's own rest."""
    if wrapping.witness is None:
        return
    features = run_trunk(pair)
    check_against_original(wrapping, pair, features, None if run_head is None else run_head(features))


CAUSES = (
    "Likely causes: a forward, hook or submodule that was replaced from outside and refers to the module it came "
    "from; a branch on the module's mode (eval() before hs.wrap, where its class has a `train` of its own), its "
    "device or on the values of a batch; state that a copy does not have. "
    "Say what it computes in the class's own forward"
)


def check_copy(where: str, original: np.ndarray, copy: np.ndarray, witnessed: Witnessed) -> None:
    """SettingError unless the module itself and its copy gave the same."""
    if original.shape != copy.shape:
        raise SettingError(
            f"the copy that headstart runs is not what the module computes: {where} the module gives "
            f"{original.shape} for two samples, and its copy {copy.shape}. {CAUSES}"
        )
    a, b = original.astype(np.float64), copy.astype(np.float64)
    worst = excess(a, b, max(SAME_OUTPUT, ROUNDINGS * witnessed.rounding))
    if worst is not None:
        scale = float(np.abs(a).max(initial=0.0))
        raise SettingError(
            f"the copy that headstart runs is not what the module computes: {where} they differ by {worst:.3g} "
            f"(of at most {scale:.3g}). {CAUSES}"
        )


def check_steady(first: np.ndarray, again: np.ndarray, witnessed: Witnessed) -> None:
    """SettingError unless the module itself gave the same when it had run on other samples before."""
    worst = math.inf
    if first.shape == again.shape:
        rounding = max(SAME_OUTPUT, ROUNDINGS * witnessed.rounding)
        worst = excess(first.astype(np.float64), again.astype(np.float64), rounding) or 0.0
    if worst:
        raise SettingError(
            "the module is not deterministic in inference mode: the same samples gave outputs that differ by "
            f"{worst:.3g} when it had run on others before. Look for a generator of random numbers or a counter "
            "that it holds; if it only begins with what it takes of its first batch, run it once before hs.wrap"
        )


def _check_company(here: str, values: np.ndarray, run: Run, shown: Any) -> None:
    """SettingError unless a sample has the same values in another run, in another row of a batch, and beside other
    numbers. `values`: of the two samples `shown`."""
    moved = _moved_behind(run, shown)
    if moved.shape == values.shape and _excess(values[0], moved[1]) is None:
        return
    # one run in place of four: these only say which it is
    _check_rows(here, values, run, shown)
    _same(here, values, run(shown), "when it ran a second time")
    twins = run(each(lambda array: np.stack([array[0], array[0]]), shown))
    _same(here, twins[0], twins[1], "in the next row of the same batch")
    _same(here, values[0], twins[0], "beside another sample")
    _same(here, values[:1], moved[1:], "behind a sample with other numbers")


def _check_rows(here: str, values: np.ndarray, run: Run, shown: Any) -> None:
    """SettingError where there are as many rows for one sample as for two."""
    try:
        alone = run(each(lambda array: array[:1], shown))
    except Exception:  # it may be made for two
        return
    apart = [axis for axis, (one, two) in enumerate(zip(alone.shape, values.shape, strict=False)) if one != two]
    if alone.ndim == values.ndim and apart and apart[0] > 0:
        raise SettingError(
            f"{here} gives {alone.shape} for one sample and {values.shape} for two: its samples are on axis "
            f"{apart[0]}, and a row for each sample is expected. {STATES}"
        )


def _same(here: str, values: np.ndarray, others: np.ndarray, where: str, rounding: float = EPSILON) -> None:
    """SettingError unless both are one. `rounding`: the step of the numbers, where the shape of the batch differs:
    compiled for another shape, sums of low precision are rounded at other places."""
    if values.shape != others.shape:
        raise SettingError(
            f"{here} gives {values.shape}, and {others.shape} {where}; expected a row for each sample"
        )
    if (worst := _excess(values, others, rounding)) is not None:
        scale = float(np.abs(values.astype(np.float64)).max(initial=0.0))
        raise SettingError(
            f"{here} is not deterministic in inference mode: the same sample gave outputs that differ by "
            f"{worst:.3g} (of at most {scale:.3g}) {where}; what it gives is not the sample's own. Look for "
            "dropout or noise that ignores inference mode, for a flag such as `train=True` in its call, for batch "
            "norms without statistics, for a branch on the values of a batch, for a layer that has another axis "
            "first than the samples, as with batch_first=False"
        )


def _excess(values: np.ndarray, others: np.ndarray, rounding: float = EPSILON) -> float | None:
    """By how much they differ at most, or None where they are one."""
    return excess(values.astype(np.float64), others.astype(np.float64), max(SAME_OUTPUT, ROUNDINGS * rounding))


def _moved_behind(run: Run, shown: Any) -> np.ndarray:
    """What is given for the first of two samples behind another one, in this order."""
    try:
        return run(each(_behind_another, shown))
    except Exception:
        # It may not take the numbers that are made up where an example is of two equal rows.
        return run(each(lambda array: np.stack([array[1], array[0]]), shown))


def _behind_another(array: np.ndarray) -> np.ndarray:
    """The first of two samples in the second row, and the second one in the first, of larger numbers, or of others
    where both are one: whoever gives an example gives one row, or zeros."""
    other = array[1] * array.dtype.type(FAR) if array.dtype.kind == "f" else array[1]
    if array.dtype.kind in "fiu" and np.array_equal(other, array[0]):
        other = np.zeros_like(other) if other.any() else np.ones_like(other)
    return np.stack([other, array[0]])


def _lost_axis(here: str, alone: np.ndarray, several: np.ndarray) -> str:
    return (
        f"{here} gives {alone.shape} for a batch of one, and {several.shape} for two samples: a single sample "
        "loses its axis, as squeeze() without a dim does it. Name the axes that are to go"
    )
