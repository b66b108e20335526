"""A CUDA device that is not there, for tests of the PyTorch backend on a CPU.

Tensors on it say `cuda:0`, are refused by numpy as the real ones are, and hold a CPU tensor, so that what is
computed has numbers and a gradient. Every operator checks that what it takes lies on one device. Counted are
operators (about a kernel's launch each), waits of the host, casts, and bytes over the bus. Streams do nothing,
recordings (CUDA graphs) are taken and played back.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda:0")
FREE = """view permute transpose t expand select slice as_strided alias unsqueeze squeeze narrow detach unbind
    split chunk _unsafe_view unflatten _reshape_alias empty new_empty empty_like empty_strided new_empty_strided
    lift_fresh"""
VIEWS = frozenset(FREE.split())
"""what costs no launch"""


class OnCard(torch.Tensor):
    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnCard:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def record_stream(self, stream: Any) -> None:
        pass

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert Card.current is not None
        with Card.current:
            return function(*args, **(kwargs or {}))


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnCard) else value


def _is_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class Card(TorchDispatchMode):
    """What runs on it, and counts."""

    current: Card | None = None

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[Any] | None = None
        self.later: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.written: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """id -> what a recording writes to, and what was in it: a card computes nothing while it records"""
        self.reset()

    def reset(self) -> None:
        self.operators: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.casts: collections.Counter[str] = collections.Counter()
        self.sent: collections.Counter[str] = collections.Counter()
        self.fetched: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
        if not here:
            return function(*args, **kwargs)
        name = function.overloadpacket.__name__
        elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnCard) and tensor.ndim]
        if elsewhere and name not in ("copy_", "index", "index_put_"):
            raise RuntimeError(f"Expected all tensors to be on the same device, found cuda:0 and cpu: {name}")
        if name == "_local_scalar_dense":
            self.waits["item"] += 1
            return function(here[0].inner)
        if name == "copy_" and self._crossing(args[0], args[1], bool(args[2]) if len(args) > 2 else False):
            self.later.append((args[0], args[1].inner))
            return args[0]
        if name == "_to_copy" and kwargs.get("dtype") not in (None, here[0].dtype):
            self.casts[f"{here[0].dtype} {tuple(here[0].shape)}"] += 1
        if name not in VIEWS:
            self.operators[name] += 1
        plain = tree_map(_inner, args), tree_map(_inner, kwargs)
        if self.tape is not None and (function._schema.is_mutable or "batch_norm" in name):
            for one in tree_leaves(plain):
                if torch.is_tensor(one) and id(one) not in self.written:
                    self.written[id(one)] = one, one.clone()
        result = function(*plain[0], **plain[1])
        if self.tape is not None:
            self.tape.append((function, *plain, result))
        if not isinstance(args[0], OnCard) and name == "copy_":
            return args[0]
        known = {id(tensor.inner): tensor for tensor in here}

        def on_card(one: Any) -> Any:
            if not torch.is_tensor(one):
                return one
            return known[id(one)] if id(one) in known else OnCard(one)

        return tree_map(on_card, result)

    def finish(self) -> None:
        """What was begun and not waited for happens as late as it may: by then its source may be another."""
        for target, source in self.later:
            target.copy_(source)
        self.later.clear()

    def _crossing(self, target: torch.Tensor, source: torch.Tensor, at_once: bool) -> bool:
        """Count a copy; whether it goes on while the host does something else."""
        if not isinstance(target, OnCard):
            self.fetched[str(source.dtype)] += source.nbytes
            if at_once and getattr(target, "is_locked", False):
                return True
            self.waits["copy to the host"] += 1
        elif not isinstance(source, OnCard) and source.ndim:
            self.sent[str(source.dtype)] += source.nbytes
            self.waits["copy to the card"] += 1
        return False


class Factories(TorchFunctionMode):
    """What is asked for on the card is made on the CPU, and says that it is there."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.cpu:
            function, args = torch.Tensor.to, (args[0], "cpu")
        if function is torch.Tensor.to:
            return self._to(*args, **kwargs)
        locked = kwargs.pop("pin_memory", False)
        if _is_card(kwargs.get("device")):
            asked = kwargs.pop("requires_grad", False)
            made = function(*args, **{**kwargs, "device": "cpu"})
            if torch.is_tensor(made) and not isinstance(made, OnCard):
                made = OnCard(made.detach()).requires_grad_(asked)
            return made
        made = function(*args, **kwargs)
        if locked:
            made.is_locked = True
        return made

    def _to(self, x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
        at_once, copy = kwargs.pop("non_blocking", False), {k: kwargs.pop(k) for k in ("copy",) if k in kwargs}
        if rest and isinstance(rest[0], torch.Tensor):
            rest = (rest[0].device, rest[0].dtype)
        device, dtype, unhurried, layout = torch._C._nn._parse_to(*rest, **kwargs)
        at_once = at_once or unhurried
        other = {k: v for k, v in (("dtype", dtype), ("memory_format", layout)) if v is not None} | copy
        if _is_card(device) and not isinstance(x, OnCard):
            y = x.detach().to(**other) if other else x.detach()
            self.card.sent[str(y.dtype)] += y.nbytes
            if not (at_once and getattr(x, "is_locked", False)):
                self.card.waits["copy to the card"] += 1
            return OnCard(y.clone(memory_format=torch.preserve_format)).requires_grad_(x.requires_grad)
        if device is not None and device.type == "cpu" and isinstance(x, OnCard):
            y = x.detach().to(**other) if other else x.detach()
            self.card.fetched[str(y.dtype)] += y.nbytes
            self.card.waits["copy to the host"] += 1
            return y.inner.clone(memory_format=torch.preserve_format)
        return x.to(**other) if other else x


class Stream:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


class Event(Stream):
    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        assert Card.current is not None
        Card.current.waits["event"] += 1
        Card.current.finish()


class Recording:
    def __init__(self) -> None:
        self.tape: list[Any] = []

    def replay(self) -> None:
        assert Card.current is not None
        Card.current.operators["replay"] += 1
        for function, args, kwargs, before in self.tape:
            after = function(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if torch.is_tensor(old) and old is not new:
                    old.copy_(new)


@contextmanager
def recording(graph: Recording, **settings: Any) -> Iterator[None]:
    card = Card.current
    assert card is not None
    card.tape = graph.tape
    try:
        yield
    finally:
        card.tape = None
        for tensor, before in card.written.values():
            tensor.copy_(before)
        card.written.clear()


def _conv_relu(x: Any, w: Any, b: Any, s: Any, p: Any, d: Any, g: int) -> torch.Tensor:
    return F.conv2d(x, w, b, s, p, d, g).relu_()


def _conv_add_relu(x: Any, w: Any, z: Any, alpha: Any, b: Any, s: Any, p: Any, d: Any, g: int) -> torch.Tensor:
    return (F.conv2d(x, w, b, s, p, d, g) + z).relu_()


def _on_the_cpu(self: Any, kind: str, *args: Any, **kwargs: Any) -> None:
    super(torch.autocast, self).__init__("cpu", *args, **kwargs)


def _grouped(lists: Any, with_indices: bool = False) -> Any:
    """As optimisers group their tensors, by what these say of themselves and not by what they are."""
    groups = _group(lists, with_indices)
    return {(values[0][0].device, dtype): (values, where) for (_, dtype), (values, where) in groups.items()}


_group = torch.optim.Optimizer._group_tensors_by_device_and_dtype


class Chosen(nullcontext[None]):
    """`torch.cuda.device`, which torch asks whether something is one of."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


@contextmanager
def cuda() -> Iterator[Card]:
    """A machine with one card. What is asked of `torch.cuda` is answered; cuDNN's fused calls are there."""
    card = Card()
    generator, autocast, inference = torch.Generator, torch.autocast, torch.inference_mode

    def synchronize(*_: Any) -> None:
        card.waits["synchronize"] += 1
        card.finish()

    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "synchronize": synchronize,
        "mem_get_info": lambda *_: (80 << 30, 80 << 30),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "is_current_stream_capturing": lambda: card.tape is not None,
        "_lazy_init": lambda: None,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Recording,
        "graph": lambda graph, **settings: recording(graph, **settings),
        "current_stream": lambda *_: Stream(),
        "stream": lambda *_: nullcontext(),
        "device": Chosen,
        "get_device_name": lambda *_: "A card that is not there",
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=80 << 30),
        "get_device_capability": lambda *_: (9, 0),
    }
    kept = {name: getattr(torch.cuda, name) for name in answers}
    capturing = SimpleNamespace(is_capturing=lambda: card.tape is not None)
    stream, torch.accelerator.current_stream = torch.accelerator.current_stream, lambda *_: capturing
    named, torch.accelerator.current_accelerator = torch.accelerator.current_accelerator, lambda **_: CARD
    overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
    library = torch.library.Library("aten", "IMPL")
    library.impl("cudnn_convolution_relu", _conv_relu, "CPU")
    library.impl("cudnn_convolution_add_relu", _conv_add_relu, "CPU")
    try:
        Card.current = card
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch.optim.Optimizer._group_tensors_by_device_and_dtype = staticmethod(_grouped)
        for name, answer in answers.items():
            setattr(torch.cuda, name, answer)
        # classes, since both stand in annotations
        torch.Generator = type("Generator", (), {"__new__": lambda cls, device="cpu": generator()})
        torch.autocast = type("Autocast", (autocast,), {"__init__": _on_the_cpu})
        torch.inference_mode = torch.no_grad  # such wrappers have no views there
        with Factories(card), card:
            yield card
    finally:
        torch.optim.Optimizer._group_tensors_by_device_and_dtype = staticmethod(_group)
        for name, real in kept.items():
            setattr(torch.cuda, name, real)
        torch.accelerator.current_stream, torch.accelerator.current_accelerator = stream, named
        torch.__future__.set_overwrite_module_params_on_conversion(overwriting)
        torch.Generator, torch.autocast, torch.inference_mode = generator, autocast, inference
        Card.current = None
        library._destroy()
