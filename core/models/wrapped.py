"""A user's own module as a model: `wrap` makes an ordinary `Model` of it, whose graph has few nodes.

    input -> trunk (native) -> head (native)              the rest of the module, or a module given as head
    input -> trunk (native) -> pool -> head (linear ...)  a fresh classifier

Invariants: the module is copied, never changed; what is cut off is what was shown to run; a trunk whose output is
not a function of its input alone is refused, since features of it could not be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from headstart import backend as backends
from headstart.backend import Backend, Wrapping, WrapRequest
from headstart.data import Arrays, Dataset, Preprocess
from headstart.data.rows import count, each, window
from headstart.errors import HeadstartError, SettingError, WeightsError
from headstart.graph import Builder, Graph, NativePart, Node, Shape
from headstart.models.heads import Head, check_head, classifier
from headstart.models.initial import initial_params
from headstart.models.layouts import misfit
from headstart.models.model import Model, class_names

TRUNK, POOL, HEAD = "trunk", "pool", "head"
REST = "rest"
# Repeated runs, and other rows of a batch, move sums by about 1e-6; dropout, noise, batch statistics by far more.
SAME_OUTPUT = 1e-4
ERROR_LENGTH = 500


def wrap(
    module: Any,
    cut: str | None = None,
    preprocess: Preprocess | None = None,
    classes: int | Sequence[str] | None = None,
    head: Head | Any = REST,
    name: str | None = None,
    *,
    example: Any = None,
    params: Any = None,
    init: Callable[[int], Any] | None = None,
    seed: int = 0,
) -> Model:
    """Make a model of your own module, which all modes work on, in the framework that it is written in.

    `module`: a torch.nn.Module, a functional keras.Model, a flax.nnx.Module, or two JAX functions
    `(trunk, head)` of `(params, x)` with `params=(trunk_params, head_params)`, any pytrees of arrays. It is copied
    and never changed; what runs frozen runs in inference mode.
    `cut`: the last thing in the trunk, by the module's own names: of a submodule or a traced operation in torch
    ("layer3.1", "layer3.1.add"), of a layer in Keras, of a submodule in NNX. Default: before the classifier, or
    with another `head` the module's end.
    `head`: "rest" (the rest of the module), "linear" or a list such as [256, 0.5] (a fresh classifier on the
    pooled features, see `hs.model`), or a module of the same framework that takes the features. Where torch.fx
    cannot trace a module, and inside of NNX modules other than nnx.Sequential, there is no rest to be had.
    `classes`: the number or names of the classes. With the rest of the module, or a module, as head they are what
    it gives.
    `preprocess`: how images become what the module takes; torch modules get `(n, c, h, w)`, others `(n, h, w, c)`.
    Default: what a timm module's `pretrained_cfg` says; else inputs are taken as they are from
    `hs.data.arrays(x, y)`: one array (if it is `(n, h, w, c)`, torch modules get it as `(n, c, h, w)`), or a dict
    of arrays, which a torch or NNX module is called with as keyword arguments if its signature has these names,
    else as one dict; a Keras model by the names of its inputs.
    `example`: a batch of such inputs, or a data set; Keras models need none.
    `name`: for listings; and the identity of a module whose code cannot be seen (defined in `exec`, a Keras Lambda
    layer ...), without which its features could not be told from another's.
    `init`: seed -> a module like `module` drawn anew (for functions: such `params`), for mode "scratch" where the
    framework has no word for it.

    Raises SettingError and its kin: CutError, UnknownNameError.
    """
    if name is not None and (not isinstance(name, str) or not name):
        raise SettingError(f"name={name!r}; expected a text, such as 'my-encoder-v2'")
    chosen = backends.owner(module)
    if chosen is None:
        raise SettingError(
            f"cannot wrap {_kind(module)}; expected a torch.nn.Module, a functional keras.Model, a "
            "flax.nnx.Module, or two JAX functions (trunk, head) with params=(trunk_params, head_params)"
        )
    inputs = _inputs(chosen, module, preprocess, example)
    shown = _shown(inputs, example)
    own = None if _is_plain(head) else head
    rest = isinstance(head, str) and head == REST
    if own is None and not rest:
        check_head(head)
        if classes is None:
            raise SettingError(f"head={head!r} makes a fresh classifier and needs classes=, their number or names")
    elif own is not None and backends.owner(own) is not chosen:
        raise SettingError(
            f"head={_kind(own)} is no module of {chosen.name}, which {_kind(module)} belongs to; expected 'rest', "
            "'linear', a list of hidden widths, or such a module"
        )
    called = name or _called(module)
    wrapping = _wrapped(chosen, called, inputs, WrapRequest(module, cut, rest, shown, params, init))
    trunk = _known(wrapping.trunk, wrapping, name)
    wrapping = replace(wrapping, trunk=trunk)
    features = _checked_features(chosen, wrapping, inputs, shown)
    if own is not None:
        request = WrapRequest(own, None, False, features, None, None)
        other = _wrapped(chosen, _called(own), f"features of shape {features.shape}", request)
        wrapping = replace(wrapping, head=other.trunk, head_params=other.params)
    if wrapping.head is None:
        assert classes is not None
        names, named = class_names(classes)
        graph = _with_classifier(_trunk_nodes(inputs, trunk), trunk.output, len(names), head)
    else:
        names, named = _outputs(wrapping.head, classes)
        part = _known(wrapping.head, wrapping, name or called)
        graph = Graph((*_trunk_nodes(inputs, trunk), Node(HEAD, "native", (TRUNK,), {"part": part})), HEAD)
    given = {f"{TRUNK}.{key}": value for key, value in wrapping.params.items()}
    given |= {f"{HEAD}.{key}": value for key, value in wrapping.head_params.items()}
    fresh = frozenset(graph.param_shapes().keys() - given.keys())
    made = initial_params(graph, seed, fresh) | given
    return Model(
        called,
        graph,
        {key: made[key] for key in graph.param_shapes()},
        inputs,
        names,
        head if own is None else "module",
        f"its own, cut at {wrapping.cut}",
        fresh,
        named,
        POOL if POOL in graph else TRUNK,
    )


def restored(model: Model, path: Path) -> dict[str, np.ndarray]:
    """The parameters of a wrapped model from a file that `Run.save` wrote: every name, shape and dtype as they are
    in the model, or WeightsError."""
    try:
        with safe_open(path, framework="numpy") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}); is it complete?") from error
    names = model.layouts[0].names(model.graph)
    wanted = {theirs: (tuple(shape), model.params[ours].dtype) for ours, (theirs, shape) in names.items()}
    misfit(
        str(path),
        [key for key in wanted if key not in found],
        [key for key in found if key not in wanted],
        [
            f"{key} {found[key].dtype} {found[key].shape} instead of {dtype} {shape}"
            for key, (shape, dtype) in wanted.items()
            if key in found and (found[key].shape, found[key].dtype) != (shape, dtype)
        ],
    )
    return {ours: found[theirs] for ours, (theirs, _) in names.items()}


def _is_plain(head: Any) -> bool:
    if isinstance(head, str):
        return True
    return isinstance(head, list | tuple) and all(isinstance(one, int | float) for one in head)


def _kind(module: Any) -> str:
    return module.__name__ if isinstance(module, type) else f"an object of {type(module).__qualname__}"


def _called(module: Any) -> str:
    if isinstance(module, list | tuple):
        return "+".join(getattr(one, "__name__", type(one).__name__) for one in module if one is not None)
    return type(module).__name__


def _inputs(chosen: Backend, module: Any, preprocess: Any, example: Any) -> Preprocess | Arrays:
    if isinstance(preprocess, Preprocess):
        return preprocess
    if preprocess is not None:
        raise SettingError(f"preprocess={preprocess!r}; expected an hs.Preprocess, or None for inputs as they are")
    if example is not None:
        return Arrays.like(_rows(example))
    stated = chosen.inputs(module)
    if stated is None:
        raise SettingError(
            f"what {_kind(module)} takes is not known: pass preprocess=, an hs.Preprocess, if it takes images; "
            "else example=, a batch of its inputs (an array or a dict of arrays) or a data set"
        )
    return stated


def _rows(example: Any) -> Any:
    """The first samples of a data set, or a batch as it is."""
    if isinstance(example, Dataset):
        if example.entries is None:
            raise SettingError(f"example={example!r} yields images; pass preprocess=, for how they are prepared")
        samples = [example[i].image for i in range(min(2, len(example)))]
        if isinstance(samples[0], dict):
            return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
        return np.stack(samples)
    if isinstance(example, Mapping):
        return {str(key): np.asarray(value) for key, value in example.items()}
    return np.asarray(example)


def _shown(inputs: Preprocess | Arrays, example: Any) -> Any:
    """Two samples as the graph's input has them: of the example, or made up."""
    rng = np.random.default_rng(0)
    if isinstance(inputs, Preprocess):
        return rng.standard_normal((2, *inputs.shape), np.float32)
    if example is not None:
        rows = window(inputs.prepared(_rows(example)), 0, 2)
        return rows if count(rows) == 2 else each(lambda array: np.repeat(array, 2, axis=0), rows)
    made = {}
    for key, shape, dtype in inputs.entries:
        if dtype == "float32":
            made[key] = rng.standard_normal((2, *shape), np.float32)
        else:
            made[key] = np.ones((2, *shape), dtype)
            made[key][0] = dtype == "bool"
    return made[""] if inputs.alone else made


def _wrapped(chosen: Backend, called: str, inputs: Any, request: WrapRequest) -> Wrapping:
    try:
        return chosen.wrap(request)
    except HeadstartError:
        raise
    except Exception as error:  # of the user's own code
        raise SettingError(
            f"{called} could not be run on two samples of what it is said to take, {inputs}: "
            f"{type(error).__name__}: {str(error)[:ERROR_LENGTH]}. If it takes something else, say so with "
            "preprocess= or example="
        ) from error


def _known(part: NativePart, wrapping: Wrapping, name: str | None) -> NativePart:
    """The part with a structure as keys hold it; where it cannot be known, by the user's name."""
    if part.structure is not None:
        return replace(part, structure={"backend": part.backend, "structure": part.structure})
    if name is None:
        raise SettingError(
            f"what the module computes cannot be known: {wrapping.reason}. Its features could not be told from "
            "those of another: pass name=, a name that you change when its code changes"
        )
    about = {"backend": part.backend, "unknown": True, "name": name, "cut": wrapping.place}
    return replace(part, structure=about)


def _trunk_nodes(inputs: Preprocess | Arrays, trunk: NativePart) -> tuple[Node, ...]:
    return (
        Node("input", "input", (), {"shape": inputs.shape or None}),
        Node(TRUNK, "native", ("input",), {"part": trunk}),
    )


def _with_classifier(nodes: tuple[Node, ...], shape: Shape, classes: int, head: Head) -> Graph:
    b = Builder()
    b.nodes = list(nodes)
    x = TRUNK
    if len(shape) > 1:
        op = {3: "global_avg_pool", 2: "mean_tokens"}.get(len(shape))
        if op is None:
            raise SettingError(
                f"head={head!r} takes features of shape (h, w, c), (t, c) or (c,), and the trunk gives {shape}; "
                "pass a module as head, or cut elsewhere"
            )
        x = b.add(POOL, op, x)
    return b.graph(classifier(b, HEAD, x, shape[-1], classes, check_head(head)))


def _outputs(head: NativePart, classes: int | Sequence[str] | None) -> tuple[tuple[str, ...], bool]:
    """The names of what the head gives."""
    if len(head.output) != 1:
        raise SettingError(
            f"the head gives {head.output} a sample, expected (classes,); head='linear' makes a fresh classifier"
        )
    if classes is None:
        return class_names(head.output[0])
    names, named = class_names(classes)
    if len(names) != head.output[0]:
        raise SettingError(
            f"the module's own head gives {head.output[0]} classes, and {len(names)} were asked for; "
            "head='linear' makes a fresh classifier behind the cut"
        )
    return names, named


def _checked_features(chosen: Backend, wrapping: Wrapping, inputs: Preprocess | Arrays, shown: Any) -> np.ndarray:
    """What the trunk gives for the two samples. Refused is one that gives two equal inputs two outputs: in two
    runs, in two rows of a batch, or in the company of other samples."""
    graph = Graph(_trunk_nodes(inputs, wrapping.trunk), TRUNK)
    params = {f"{TRUNK}.{key}": value for key, value in wrapping.params.items()}
    trunk = chosen.trunk(graph, params, [TRUNK], chosen.place("cpu", "float32"))

    def run(rows: Any) -> np.ndarray:
        return chosen.numpy(trunk.run(rows)[TRUNK]).astype(np.float64)

    features = chosen.numpy(trunk.run(shown)[TRUNK])
    first, again = features.astype(np.float64), run(shown)
    twins = run(each(lambda array: np.stack([array[0], array[0]]), shown))
    scale = float(np.abs(first).max(initial=0.0))
    for one, other, where in (
        (first, again, "when it ran a second time"),
        (twins[0], twins[1], "in the next row of the same batch"),
        (first[0], twins[0], "beside another sample"),
    ):
        both = np.isfinite(one) & np.isfinite(other)
        if not both.all():
            raise SettingError(f"the trunk up to {wrapping.cut!r} gives values that are not finite")
        if (worst := float(np.abs(one - other).max(initial=0.0))) > SAME_OUTPUT * scale:
            raise SettingError(
                f"the trunk up to {wrapping.cut!r} is not deterministic in inference mode: the same sample gave "
                f"outputs that differ by {worst:.3g} (of at most {scale:.3g}) {where}; features of it cannot be "
                "kept. Look for dropout or noise that ignores inference mode, for batch norms without statistics"
            )
    return features
