"""A user's torch.nn.Module as parts of a graph.

torch.fx traces it where it can: submodules that cannot be traced stay whole, and any value that all of the rest
passes through is a cut. Where the module's own forward cannot be traced, it is run as it is and stopped at a
submodule.

Invariants: the module is copied and never touched; a part computes what the module computes, in the order and
memory layout that it has there; parameters keep their names.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import nn

from headstart.backends.torch import axes, doubted, forms, reading, steps, stopped
from headstart.backends.torch.arrays import batch_of, exact_numpy
from headstart.backends.torch.chance import undrawn
from headstart.backends.torch.classifier import is_hidden, is_linear, labels_of, ranking
from headstart.backends.torch.ending import (
    BACK,
    ORDERS,
    Cast,
    Ending,
    Turned,
    at_end,
    has_class_token,
    tensors,
)
from headstart.backends.torch.learning import counterpart, tell_unfollowed, traced_in_training
from headstart.backends.torch.original import Inside, Original, check_separate, inside_of
from headstart.backends.torch.parts import Shown, copied, holding, params_of, part_of
from headstart.backends.torch.settling import buffers_of, check_made, empty_of, settle
from headstart.backends.torch.shapes import found_by, sparing
from headstart.backends.torch.stopped import ByName
from headstart.backends.torch.telling import describe, told, told_whole
from headstart.backends.torch.trace import Activation, Call, Part, Place, Traced, sharing
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import BEFORE, END, Wrapping, WrapRequest
from headstart.data import Preprocess
from headstart.data.rows import count
from headstart.graph.cuts import BOTH_SIDES
from headstart.models.feature_layout import FIRST, LAST, fitting, mask_of, unknown
from headstart.models.several import LOGITS, NAMED, TOKENS, Entry, dotted, entry_in, entry_of


def owns(native: Any) -> bool:
    return isinstance(native, nn.Module) or forms.is_exported(native)


def inputs(native: nn.Module) -> Preprocess | None:
    """What timm says of its models."""
    settings = getattr(forms.unwrapped(native)[0], "pretrained_cfg", None)
    if not isinstance(settings, Mapping) or "input_size" not in settings:
        return None
    channels, height, width = settings["input_size"]
    crop_mode = settings.get("crop_mode") or "center"
    if channels != 3 or height != width or crop_mode not in ("center", "squash"):
        raise SettingError(
            f"the module's pretrained_cfg asks for images of {height} x {width} x {channels} with crop_mode "
            f"{crop_mode!r}, which headstart does not make; pass preprocess="
        )
    resize = math.floor(height / (settings.get("crop_pct") or 1.0))
    interpolation = settings.get("interpolation") or "bilinear"
    # a crop_pct above 1: timm pads what it has resized
    how = {"pad": resize < height, "squash": crop_mode == "squash"}
    return Preprocess(height, resize, interpolation, settings["mean"], settings["std"], **how)


def wrap(request: WrapRequest) -> Wrapping:
    if request.params is not None:
        raise SettingError("params= goes with JAX functions; a torch module holds its parameters itself")
    native, prefixes = forms.unwrapped(request.native)
    request = replace(request, native=native, cut=forms.without(request.cut, prefixes))
    forms.tell_of_gradient_hooks(native)
    memo: dict[int, Any] = {}
    beside: list[nn.Parameter] = []
    source = copied(native, memo, beside)
    was = forms.to_float32(source)
    buffers = buffers_of(source)  # before anything runs, since what counts its calls writes to them
    call = Call.of(source, request.example)
    original = Original(native, Call.of(native, request.example), memo)
    if request.takes in BACK:
        source.register_forward_pre_hook(Turned(request.takes))
    start = perf_counter()
    with torch.no_grad(), undrawn(0), forms.told_of_casts(source, was):
        # What it keeps of its first run, in a global or a cache, is to be tensors, and not what a trace has.
        value = call(ran := sharing(source), batch_of(request.example))
        check_made(source, ran)
        settle(source, ran, call, request.example, buffers)
    empty = empty_of(source)
    if request.rest or request.to_an_end:
        call = replace(call, row=steps.row_at_end(source, call, value, request.example))
    with sparing(perf_counter() - start):
        traced = Traced.of(source, call)
        if request.to_an_end and not request.rest:
            traced = reading.faithful(traced, source, call, value, request.example)
        made = _made(request, source, call, traced)
        check_separate(request, made.wrapping, beside)
    kept = {name: exact_numpy(buffer) for name, buffer in buffers.items()} | dict.fromkeys(empty)
    trunk, params = holding(made.wrapping.trunk, made.wrapping.params, kept)
    head, head_params = holding(made.wrapping.head, made.wrapping.head_params, kept)
    return replace(
        made.wrapping,
        trunk=trunk,
        params=params,
        head=head,
        head_params=head_params,
        witness=original.witness(made.place, made.ending.of, partial(at_end, row=call.row), made.whole),
        labels=labels_of(native),
    )


class Made(NamedTuple):
    """A wrapping, and how its cut is looked at in the module itself."""

    wrapping: Wrapping
    place: Place | None
    ending: Ending = Ending()
    whole: Inside | None = None
    """what was traced, where nothing else shows whether the trunk is right"""


def _made(request: WrapRequest, source: nn.Module, call: Call, traced: Traced | None) -> Made:
    if request.cut == END and not request.rest:
        return _whole(request, source, call, traced)
    hidden = traced is None or is_hidden(source, traced)
    if request.cut is not None and request.cut.startswith(BEFORE):
        made = _stopped_before_classifier(request, source, call, traced) if hidden else None
        if made is not None and made.wrapping.cut == request.cut:
            return made
        if traced is not None and request.fresh and ranking(source, traced):
            place = reading.before_classifiers(source, traced, request.example)
            if place.cut == request.cut:
                return _split(request, source, call, traced, place)
    if request.cut is not None:
        return _at(request, source, call, traced)
    if hidden and (made := _stopped_before_classifier(request, source, call, traced)) is not None:
        return made
    if traced is None:
        return _whole(request, source, call, None)
    if request.rest:
        return _split(
            request, source, call, traced, reading.Place(reading.before_rest(source, traced, request.example))
        )
    if request.fresh and ranking(source, traced):
        return _split(request, source, call, traced, reading.before_classifiers(source, traced, request.example))
    return _whole(request, source, call, traced)


def _at(request: WrapRequest, source: nn.Module, call: Call, traced: Traced | None) -> Made:
    """At a cut that was asked for: of what was traced, of a submodule that was not, of what the module gives."""
    cut = request.cut
    assert cut is not None
    if traced is not None:
        paths = traced.paths
        try:
            node = paths.resolve(cut)
        except CutError:
            node = None
        if node == paths.input:
            paths.check(cut)
        if node is not None and (request.rest or node in traced.nodes):
            return _split(request, source, call, traced, reading.Place(paths.check(cut) if request.rest else node))
    run = stopped.watched(source, call, request.example, None)
    at = stopped.path_of(cut, source)
    if request.rest:
        if traced is not None and at is None:
            traced.paths.check(cut)
        what = type(source).__name__ if traced is None or at is None else f"what {at[0]!r} is in"
        raise CutError(
            f"torch.fx cannot trace {what}, so the rest behind a cut cannot be had; pass head='linear', a list of "
            "hidden widths such as [256], or a module"
        )
    there = {dotted(entry) for entry, _ in tensors(run.output)} - {""}
    if at is not None:
        stopped.check_called(at[0], run, type(source).__name__)
        return _stopped(request, source, call, *at)
    if any(name == cut or name.startswith(f"{cut}.") for name in there):
        return _whole(request, source, call, traced, cut)
    if traced is not None:
        traced.paths.check(cut)
    stopped.no_such_cut(cut, run)
    raise CutError(f"{cut!r} is the end of {type(source).__name__}; leave cut= away for that")


# ---- stopping


def _stopped(request: WrapRequest, source: nn.Module, call: Call, path: str, entry: str) -> Made:
    """A trunk that runs the module itself, and stops at a submodule."""
    pristine = sharing(source)
    run = stopped.watched(source, call, request.example, path)

    def axis(watching: axes.Watched, entries: Any) -> tuple[int | None, str]:
        def look(shell: nn.Module, batch: Any) -> tuple[int | None, str]:
            marked: list[tuple[int | None, str]] = []

            def mark(_module: nn.Module, _args: Any, value: Any) -> None:
                if not marked:
                    marked.append(watching.mark(entry_of(value, entries)))

            watching.evidence.clear()
            shell.get_submodule(path).register_forward_hook(mark)
            call(shell, batch)
            return marked[0]

        return found_by(look, pristine, request.example)

    stopped.stop(source, call, request.example, path, run)
    cut = f"{path}.{entry}" if entry else path
    shown = Shown.by(source, request.example)
    ending = _ending(request, shown, cut, entry, f"{path!r}", axis)
    structure, reason = told(source, lambda teller: [path, call.by_name, teller.value(source)])
    part = part_of(request, shown, structure, pristine, ending)
    wrapping = Wrapping(cut, cut, part, params_of(source, source), reason=reason, layout=ending.layout)
    return Made(wrapping, Place(path, 0), ending)


def _stopped_before_classifier(
    request: WrapRequest, source: nn.Module, call: Call, traced: Traced | None
) -> Made | None:
    """Cut before the linear layer at the end of a module that cannot be traced, or of which the end could not be;
    None where there is no such layer and none is needed."""
    if not (request.rest or request.fresh):
        return None
    run = stopped.watched(source, call, request.example, None)
    path, ending = stopped.classifier_at_end(run, source, call, request.example) or ("", "")
    if path and request.rest and run.values[path][1].dtype is not torch.float32:
        path = ""  # it ran under autocast, and alone it would not
    reads: dict[str, torch.Tensor] = {}
    if not path and request.fresh:
        reads = steps.classifiers_before_end(source, call, request.example)
        path = next(iter(reads), "")
        token = None if path else stopped.classifier_of_one_token(source, call, request.example, run)
        if token is not None:
            return _left_out(request, source, call, run, token)
        if not path and (path := stopped.classifier_of_tokens(source, call, run) or ""):
            reads = {path: run.values[path][0]}
    if not path or (not request.rest and not reads and stopped.is_projected(run, call, path, ending)):
        if not request.rest or traced is not None:
            return None
        raise CutError(
            f"torch.fx cannot trace {type(source).__name__}, and it does not end in a linear layer, so the rest "
            "behind a cut cannot be had; pass head='linear', a list of hidden widths such as [256], or a module"
        )
    pristine = sharing(source)
    if not request.rest:
        return _stopped_before(request, source, call, run, reads or {path: run.values[path][0]})
    head = stopped.alone(pristine, path)
    stopped.stop_before(source, call, request.example, {path: -1}, (), run)
    cut = f"{BEFORE}{path}"
    structure, reason = told(source, lambda teller: [cut, call.by_name, teller.value(source)])
    shown = Shown.by(source, request.example)
    part = part_of(request, shown, structure, pristine)
    _check_apart(source, head, cut)
    head_structure, _ = told(pristine, lambda teller: [path, teller.value(pristine.get_submodule(path))])
    head_part = part_of(request, Shown.by(head, shown.features()), head_structure, pristine)
    params = params_of(source, source)
    return Made(Wrapping(cut, cut, part, params, head_part, params_of(head, pristine), reason, ending), None)


def _stopped_before(
    request: WrapRequest, source: nn.Module, call: Call, run: stopped.Run, reads: Mapping[str, torch.Tensor]
) -> Made:
    """A trunk that is stopped where classifiers read, for a fresh one. `reads`: classifier -> what it takes."""
    pristine = sharing(source)
    apart = reading.distinct(reads)
    names = [*reads] if len(apart) > 1 else apart
    taken = [reads[path] for path in apart]
    channels = [
        x.ndim - 1 if is_linear(source.get_submodule(path)) or x.ndim == 2 else 1
        for path, x in zip(apart, taken, strict=True)
    ]
    if len(apart) > 1:
        reading.check_joinable(names, taken, channels, request.example)
    cut = f"{BEFORE}{', '.join(names)}"
    stopped.stop_before(source, call, request.example, dict(zip(apart, channels, strict=True)), names, run)
    _check_reads(source, request.example, cut, taken[0] if len(apart) == 1 else reading.joined(taken, channels))
    ending, shown = Ending(), Shown.by(source, request.example)
    if len(apart) == 1 and taken[0].ndim > 2:
        ending = _ending(request, shown, cut, "", repr(cut), lambda *_: (channels[0], axes.STRONG))
    structure, reason = told(source, lambda teller: [cut, call.by_name, teller.value(source)])
    part = part_of(request, shown, structure, pristine, ending)
    given = run.values[names[0]][1]
    logits = exact_numpy(given.float()) if len(reads) == 1 and given.ndim == 3 else None
    params = params_of(source, source)
    wrapping = Wrapping(cut, cut, part, params, reason=reason, layout=ending.layout, token_logits=logits)
    return Made(wrapping, None, ending)


def _left_out(request: WrapRequest, source: nn.Module, call: Call, run: stopped.Run, path: str) -> Made:
    """All of the module as the trunk, without its classifier of every token: then it gives what a fresh one is to
    read."""
    pristine = sharing(source)
    stopped.leave_out(source, path)
    cut = f"{BEFORE}{path}"
    if call.by_name:
        source.forward = ByName(source.forward)
    ending = Ending(call.row or (() if isinstance(run.output, torch.Tensor) else (LOGITS,)))
    structure, reason = told(source, lambda teller: [cut, call.by_name, teller.value(source)])
    part = part_of(request, Shown.by(source, request.example), structure, pristine, ending)
    return Made(Wrapping(cut, cut, part, params_of(source, source), reason=reason), None, ending)


def _check_reads(trunk: nn.Module, example: Any, cut: str, expected: torch.Tensor) -> None:
    """CutError where the trunk does not give what the classifiers read: the first call of several is where it
    stops, or one of them takes what another gives."""
    try:
        with torch.no_grad():
            given = trunk(batch_of(example))
        same = given.shape == expected.shape and torch.allclose(given, expected, 1e-3, 1e-5, equal_nan=True)
    except RuntimeError:
        same = False
    if not same:
        raise CutError(
            f"what the module's classifier reads cannot be had {cut!r}: it is called more than once, or takes "
            "what another gives; choose with cut= the name of a submodule in front of it, or "
            f"cut={END!r} for a fresh classifier behind what the module gives"
        )


def _whole(request: WrapRequest, source: nn.Module, call: Call, traced: Traced | None, entry: str = "") -> Made:
    """All of the module as the trunk, run as it is."""
    if request.fresh and request.cut is None:
        doubted.tell(source, call, request.example)
    pristine = sharing(source)
    graph = last = None
    if traced is not None and traced.result is not None:
        last = traced.activation(traced.result) if request.logits else None
        graph = traced.slice(None, traced.result, last)
        if last is None and (entry not in ("", LOGITS) or (not entry and traced.beside & {*NAMED})):
            graph = None  # of the logits, where another thing that it gives is taken

    def axis(watching: axes.Watched, entries: Any) -> tuple[int | None, str]:
        def look(shell: nn.Module, batch: Any) -> tuple[int | None, str]:
            watching.evidence.clear()
            return watching.mark(entry_of(call(shell, batch), entries))

        return found_by(look, pristine, request.example)

    structure, reason = told_whole(source, call, graph, request.example)
    if last is not None and graph is not None:  # without what makes probabilities at its end
        learning = traced_in_training(source, call, request.example)
        graphs = {False: graph}
        if learning is not None and learning.result is not None:
            graphs[True] = learning.slice(None, learning.result, learning.activation(learning.result))
        else:
            tell_unfollowed(source, END)
        shown = Shown.by(Part(source, graphs, _names(call)).eval(), request.example)
        part = part_of(request, shown, structure, source)
        params = params_of(part.native, source)
        return Made(Wrapping(END, END, part, params, reason=reason, ending=last.name), None)
    if call.by_name:
        source.forward = ByName(source.forward)
    cut, shown = entry or END, Shown.by(source, request.example)
    ending = _ending(request, shown, cut, entry, type(source).__name__, axis, call.row)
    if ending.entry and not entry and not ending.first:  # of which the cut by that name would be all tokens
        cut = dotted(ending.entry)
    part = part_of(request, shown, structure, pristine, ending)
    wrapping = Wrapping(cut, cut, part, params_of(source, source), reason=reason, layout=ending.layout)
    return Made(wrapping, Place("", -1), ending)


def _split(request: WrapRequest, source: nn.Module, call: Call, traced: Traced, at: reading.Place) -> Made:
    """Trunk, and rest if it is wanted, from the graphs that were traced."""
    learning = traced_in_training(source, call, request.example)
    at.put_into(traced, learning)
    cut, node = at.cut, traced.nodes[at.cut]
    there = None if learning is None else counterpart(traced, learning, node)
    trunk_graphs = {False: traced.slice(None, node)}
    head_graphs = {}
    last: Activation | None = None
    if request.rest:
        if traced.result is None:
            raise SettingError(
                f"{type(source).__name__} does not give one tensor, so its rest is no head; head='linear' makes a "
                "fresh classifier behind the cut"
            )
        last = traced.activation(traced.result)
        head_graphs[False] = traced.slice(node, traced.result, last)
    if learning is not None and there is not None:
        with contextlib.suppress(CutError):  # in training it goes other ways, which are not followed
            beginning = learning.slice(None, there)
            if request.rest and learning.result is not None:
                head_graphs[True] = learning.slice(there, learning.result, learning.activation(learning.result))
            trunk_graphs[True] = beginning
    if True not in trunk_graphs or (request.rest and True not in head_graphs):
        tell_unfollowed(source, cut)
    trunk = Part(source, trunk_graphs, _names(call)).eval()

    def axis(watching: axes.Watched, entries: Any) -> tuple[int | None, str]:
        marked: list[tuple[int | None, str]] = []

        def look(shell: nn.Module, batch: Any) -> None:
            marked.clear()
            watching.evidence.clear()
            walk = axes.Walk(
                shell, traced.graph, (node,), lambda _, x: marked.append(watching.mark(entry_of(x, entries)))
            )
            walk.given(traced.inputs, batch)

        with contextlib.suppress(Exception):  # what comes behind need not run
            found_by(look, source, request.example)
        return marked[0]

    shown = Shown.by(trunk, request.example)
    ending = _ending(request, shown, cut, "", repr(cut), axis)
    structure, reason = told(source, lambda teller: describe(teller, source, trunk_graphs[False]))
    part = part_of(request, shown, structure, source, ending)
    if not request.rest:
        wrapping = Wrapping(cut, cut, part, params_of(trunk, source), reason=reason, layout=ending.layout)
        if request.fresh and len(part.output) == 2:
            logits = reading.logits_of_tokens(source, traced, node, request.example)
            wrapping = replace(wrapping, token_logits=None if logits is None else exact_numpy(logits.float()))
        place = traced.place(cut)
        whole = None if place is not None else inside_of(source, call, traced, node)
        return Made(wrapping, place, ending, whole)
    head = Part(source, head_graphs).eval()
    _check_apart(trunk, head, cut)
    head_structure, _ = told(source, lambda teller: describe(teller, source, head_graphs[False]))
    if ending.layout in BACK:
        head.register_forward_pre_hook(Turned(ending.layout))
    if (kind := shown.rows(ending).dtype) is not torch.float32:
        head.register_forward_pre_hook(Cast(kind))
    head_part = part_of(request, Shown.by(head, shown.features(ending)), head_structure, source)
    ours, theirs, layout = params_of(trunk, source), params_of(head, source), ending.layout
    named = "" if last is None else last.name
    wrapping = Wrapping(cut, cut, part, ours, head_part, theirs, reason, named, layout=layout)
    return Made(wrapping, traced.place(cut), ending)


def _names(call: Call) -> tuple[str, ...]:
    return call.names if call.by_name else ()


def _ending(
    request: WrapRequest,
    shown: Shown,
    cut: str,
    entry_name: str,
    where: str,
    axis: Callable[[axes.Watched, Any], tuple[int | None, str]],
    row: Entry = (),
) -> Ending:
    """What has to be done with what the trunk gives. `axis`: runs the whole, marks what is at the cut. `row`: what
    is taken of several things where no name tells."""
    value = shown.value
    entry: Entry = ()
    if not isinstance(value, torch.Tensor):
        shapes = reading.shapes_among(lambda part, x: part(x), shown.module, value, request.example)
        entry = entry_in(shapes, entry_name, count(request.example), where, type(value).__name__, row=row)
    if entry and request.rest:
        raise CutError(
            f"{where} gives a {type(value).__name__} and not one tensor, of which there is no rest; cut elsewhere"
        )
    x = entry_of(value, entry)
    if x.is_quantized and request.rest:
        raise CutError(
            f"{where} gives quantized numbers, stored as floats, and its rest takes quantized ones; pass "
            "head='linear', or cut where numbers are floats"
        )
    ending = Ending(entry, dequantized=x.is_quantized)
    layout = fitting(request.layout, tuple(x.shape), cut)
    by_itself = layout is None and request.fresh and entry == (TOKENS,) and not entry_name
    if by_itself and x.ndim == 3 and has_class_token(shown.module):
        return replace(ending, first=True)
    if layout is None and (x.ndim == 4 or (x.ndim == 3 and request.fresh)):
        watching = axes.Watched()
        made: tuple[int | None, str] = (None, axes.WEAK)
        with contextlib.suppress(Exception), torch.no_grad(), watching:
            made = axis(watching, entry)
        known = axes.channels(watching, made)
        if known in (1, x.ndim - 1):
            layout = (FIRST if known == 1 else LAST)[x.ndim]
        elif x.ndim == 4 and request.fresh:
            raise unknown(tuple(x.shape), cut)
    mask = ""
    if request.fresh and x.ndim == 3 and isinstance(request.example, dict):
        shapes = {name: tuple(array.shape[1:]) for name, array in request.example.items()}
        mask = mask_of(shapes, x.shape[2 if layout == "ncl" else 1])
    return replace(ending, layout=layout if layout in ORDERS else "", mask=mask)


def _check_apart(trunk: nn.Module, head: nn.Module, cut: str) -> None:
    ours = {id(p): name for name, p in trunk.named_parameters()}
    if shared := [name for name, p in head.named_parameters() if id(p) in ours]:
        raise CutError(BOTH_SIDES.format("parameter", shared[0], cut))
