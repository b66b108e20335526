"""A user's module itself, run as its owner runs it: by its own call, with its hooks, on its device, in inference.

Invariant: it is afterwards as it was: modes, attributes, buffers, parameters, hooks and the random generators.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.backends.doors.torch import global_hooks
from headstart.backends.torch.arrays import batch_of, from_native, to_native, to_numpy
from headstart.backends.torch.chance import undrawn, untouched
from headstart.backends.torch.ending import at_end
from headstart.backends.torch.settling import others
from headstart.backends.torch.shapes import found_by
from headstart.backends.torch.trace import Call, Part, Place, Traced
from headstart.common.errors import SettingError
from headstart.contract.wrapping import Witnessed, Wrapping, WrapRequest
from headstart.data.rows import each
from headstart.models.faithful import check_copy, check_steady

ALONE = ([inspect.Parameter.POSITIONAL_ONLY], [inspect.Parameter.POSITIONAL_OR_KEYWORD])
TF32 = 2.0**-10  # of the products that a GPU may take for those of float32


Inside = Callable[[Any], tuple[Any, torch.Tensor | None]]
"""of a batch, what is at the cut, and at the end where that is one tensor"""


@dataclass(frozen=True)
class Original:
    """A user's module, and how it is called."""

    module: nn.Module
    call: Call
    copies: Mapping[int, torch.Tensor]
    """id of a tensor of it -> its copy, which has the value that it is to have afterwards"""

    def witness(
        self,
        place: Place | None,
        at_cut: Callable[[Any, Any], torch.Tensor | None],
        at_end: Callable[[Any], torch.Tensor | None],
        whole: Inside | None = None,
    ) -> Callable[[Any], Witnessed]:
        """What `Wrapping` asks for. `place`: of the cut; None: it cannot be looked at.
        `at_cut`: what is there, and the batch -> the tensor that the trunk gives. `at_end`: the same of the
        end. `whole`: of the copy, where the cut is an operation between modules that nobody can look at: its end
        is compared, and what it gives at the cut stands for what the module gives there."""

        steady: list[bool] = []

        def look(batch: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            """What is at the cut, and at the end."""
            seen: list[Any] = []
            end, cut = _observed(self.module, self.call, batch, place, seen), None
            if place is not None and place.path == "":
                cut = at_cut(end, to_native(batch))
            elif place is not None and len(seen) > place.call:
                cut = at_cut(seen[place.call], to_native(batch))
            return cut, at_end(end)

        def run(batch: Any) -> Witnessed:
            with as_owned(self.module, self.copies) as moved:
                cut, last = look(batch)
            values = [value for value in (cut, last) if value is not None]
            witnessed = Witnessed(_numpy(cut), _numpy(last), max(map(_rounding, values), default=2.0**-23))
            if moved and not steady:
                again = last if place is None else cut
                with as_owned(self.module, self.copies), contextlib.suppress(Exception):
                    _observed(self.module, self.call, each(others, batch), None, [])
                    again = look(batch)[1 if place is None else 0]
                first, then = _numpy(last if place is None else cut), _numpy(again)
                if first is not None and then is not None:
                    check_steady(first, then, witnessed)
            steady.append(True)
            if place is not None or whole is None:
                return witnessed
            inside, end = whole(batch)
            copy = _numpy(end)
            if witnessed.end is not None and copy is not None:
                check_copy("behind the cut, at its end,", witnessed.end, copy, witnessed)
            return replace(witnessed, cut=_numpy(at_cut(inside, to_native(batch))))

        return run


def inside_of(source: nn.Module, call: Call, traced: Traced, node: fx.Node) -> Inside:
    """What was traced, as code: an interpreter of the graph gives functions lists that they may not change.
    `node`: of the cut."""
    names = call.names if call.by_name else ()
    ends = [end for end in (node, traced.result) if end is not None]
    parts = [Part(source, {False: traced.slice(None, end)}, names).eval() for end in ends]

    def run(batch: Any) -> tuple[Any, torch.Tensor | None]:
        with torch.no_grad():
            inside, *end = [part(batch_of(batch)) for part in parts]
        return inside, at_end(end[0]) if end else None

    return run


class Touched(TorchDispatchMode):
    """Notes which of some tensors are computed with, by where they lie in memory."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.places = {p: name for name, tensor in tensors.items() if (p := _place_of(tensor))}
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor) and (name := self.places.get(_place_of(value))):
                self.names.add(name)
        return function(*args, **(kwargs or {}))


def _place_of(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # some kinds have none
        return 0


def check_separate(request: WrapRequest, wrapping: Wrapping, beside: Collection[nn.Parameter]) -> None:
    """SettingError where a part computes with tensors of the module that it was copied from, or a head with
    parameters that nobody would train."""
    theirs = Touched(dict(request.native.named_parameters()))
    loose = Touched({str(place): parameter for place, parameter in enumerate(beside)})
    parts = nn.ModuleList(part.native for part in (wrapping.trunk, wrapping.head) if part is not None)

    def run(parts: nn.Module, batch: Any) -> None:
        *before, last = parts.children()
        with theirs:
            for part in before:
                batch = part(batch).float()
            with loose if request.logits else nullcontext():
                last(batch)

    if beside:  # of which no copies are to be made
        with torch.no_grad():
            run(parts, batch_of(request.example))
    else:
        found_by(run, parts, request.example)
    if theirs.names:
        raise SettingError(
            f"the copy that headstart runs computes with {sorted(theirs.names)[0]!r} of the module itself, which "
            "something on it holds (an attribute, a function): it would change with the module. Let it take what "
            "it needs from self"
        )
    if loose.names:
        raise SettingError(
            "the head computes with parameters that are none of the module's own: a function on it (a hook, a "
            "forward) holds them, and they would not be trained. Make what holds them a submodule"
        )


def attempt(module: nn.Module, example: Any) -> None:
    """Run the module itself; what it raises is let through, with a note on where the batch went."""
    call = Call.of(module, example)
    try:
        with as_owned(module, {id(tensor): tensor.detach().clone() for tensor in _tensors(module)}):
            _observed(module, call, example, None, [])
    except Exception as error:
        signature = inspect.signature(module.forward)
        arguments = [a.replace(annotation=a.empty, default=a.empty) for a in signature.parameters.values()]
        if not call.by_name and [argument.kind for argument in arguments] not in ALONE:
            error.add_note(
                f"It was given as the first argument of forward{inspect.Signature(arguments)}: wrap the submodule "
                "that takes it alone, or a module of yours whose forward(x) calls this one"
            )
        raise


def _observed(module: nn.Module, call: Call, batch: Any, place: Place | None, seen: list[Any]) -> Any:
    handle = None
    if place is not None and place.path:
        # a copy: what comes behind may change it in place
        handle = module.get_submodule(place.path).register_forward_hook(
            lambda _m, _i, value: seen.append(kept(value))
        )
    try:
        return call(module, _on_device(module, batch))
    finally:
        if handle is not None:
            handle.remove()


def kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _on_device(module: nn.Module, batch: Any) -> Any:
    """A batch as the module's owner would give it."""
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is None:
        return batch_of(batch)
    return each(
        lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype),
        batch_of(batch),
    )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


@contextmanager
def as_owned(module: nn.Module, copies: Mapping[int, torch.Tensor]) -> Iterator[list[str]]:
    """In inference mode; afterwards the module is as it was, and the list that is given says what had changed."""
    modules = list(module.modules())
    modes = [m.training for m in modules]
    attributes = [dict(vars(m)) for m in modules]
    containers = [value for m in modules for value in vars(m).values() if _holds(value)]
    contents = [(container, copy.copy(container)) for container in containers]
    buffers = {id(tensor): tensor.detach().clone() for tensor in (*module.buffers(), *_renormed(modules))}
    tensors = [(tensor, _version(tensor)) for tensor in _tensors(module)]
    switching = [m for m in modules if m.training and isinstance(m, fx.GraphModule) and _switches(m)]
    try:
        for m in switching:
            m.train(False)
        for m in modules:  # and not eval(), which a class may have replaced: what it does cannot be undone
            m.training = False
        with torch.no_grad(), undrawn(2, _tensors(module)), global_hooks(), untouched(module) as moved:
            yield moved
    finally:
        with torch.no_grad():
            for tensor, version in tensors:
                before = buffers.get(id(tensor), copies.get(id(tensor)))
                if before is not None and (version is None or _version(tensor) != version):
                    moved += ["a tensor"] if _restore(tensor, before) else []
        for container, before in contents:
            moved += ["a container"] if _refill(container, before) else []
        for m in switching:
            m.train()
        for m, names, training in zip(modules, attributes, modes, strict=True):
            moved += [name for name, value in vars(m).items() if name not in names or names[name] is not value]
            for name in vars(m).keys() - names.keys():
                del vars(m)[name]
            vars(m).update(names)
            m.training = training


def _switches(module: nn.Module) -> bool:
    """Whether it holds a graph for each mode, as torchvision's `create_feature_extractor` has it: its own `train`
    takes one, and can be undone."""
    return "train_graph" in vars(module) and "eval_graph" in vars(module)


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list | set)


def _refill(container: Any, before: Any) -> bool:
    """What a module has put into its dicts and lists, or taken out of them, is undone; whether there was any."""
    now, then = ((filled.items() if isinstance(filled, dict) else filled) for filled in (container, before))
    if [*map(_identity, now)] == [*map(_identity, then)]:
        return False
    container.clear()
    container.extend(before) if isinstance(container, list) else container.update(before)
    return True


def _identity(value: Any) -> Any:
    return tuple(map(id, value)) if isinstance(value, tuple) else id(value)


def _renormed(modules: list[nn.Module]) -> list[torch.Tensor]:
    """Weights that are written to when they are looked up."""
    tables = [m for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None]
    return [table.weight for table in tables]


def _restore(tensor: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether it had changed."""
    before = before.to(tensor.device)
    if torch.equal(tensor, before):
        return False
    # inference_mode(False) would turn gradients on
    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
        tensor.copy_(before)
    return True


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _numpy(value: torch.Tensor | None) -> np.ndarray | None:
    return None if value is None else to_numpy(from_native(value).float())


def _rounding(value: torch.Tensor) -> float:
    if not value.is_floating_point():
        return 2.0**-23
    return max(torch.finfo(value.dtype).eps, TF32 if value.is_cuda else 0.0)
