"""A user's own module as a model: `wrap` makes an ordinary `Model` of it, whose graph has few nodes.

    input -> trunk (native) -> head (native)              the rest of the module, or a module given as head
    input -> trunk (native) -> pool -> head (linear ...)  a fresh classifier

Invariants: the module is copied, never changed; what is cut off is what was shown to run; a trunk whose output is
not a function of its input alone is refused, since features of it could not be kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import CutError, DataWarning, HeadstartError, SettingError
from headstart.contract import registry
from headstart.contract.protocol import Backend
from headstart.contract.wrapping import BEFORE, HEAD_NODE, TRUNK_NODE, Wrapping, WrapRequest
from headstart.data import Arrays, Dataset, Preprocess
from headstart.data.draws import drawn
from headstart.data.loader import batches
from headstart.data.rows import count, each, window
from headstart.graph import Builder, Graph, NativePart, Node
from headstart.models.classes import published
from headstart.models.classifiers import Head, check_head, classifier
from headstart.models.endings import tell_of_rectified
from headstart.models.faithful import (
    check_against_original,
    check_real,
    checked_head,
    checked_trunk,
    trunk_nodes,
)
from headstart.models.feature_layout import checked as checked_layout
from headstart.models.feature_layout import refuse_padding, warn_of_lengths
from headstart.models.initial import initial_params
from headstart.models.layouts import misfit
from headstart.models.model import Model, class_names
from headstart.models.processors import is_processor, preprocess_of
from headstart.models.structure import structure_of
from headstart.models.tensors import read_tensors
from headstart.models.tokens import MEAN, told_pooling
from headstart.models.zoo import ARCHITECTURES

POOL, REST = "pool", "rest"
ERROR_LENGTH = 500
ONNX = "headstart trains no ONNX files: to train, wrap the module that it was exported from"
PAIRS = 4  # of real samples, on which a module and its copy are compared


def wrap(
    module: Any,
    cut: str | None = None,
    preprocess: Preprocess | Any = None,
    classes: int | Sequence[str] | None = None,
    head: Head | Any = REST,
    name: str | None = None,
    *,
    example: Any = None,
    params: Any = None,
    init: Callable[[int], Any] | None = None,
    seed: int = 0,
    layout: str | None = None,
) -> Model:
    """Make a model of your own module, which all modes work on, in the framework that it is written in.

    `module`: a torch.nn.Module, a functional keras.Model, a flax.nnx.Module, a flax.linen.Module with `params=`
    (all that its `init` made), or two JAX functions `(trunk, head)` of `(params, x)` with
    `params=(trunk_params, head_params)`, any pytrees of arrays, of which running statistics are not trained: what
    is called so, or where there is a key "params" all beside it. It is copied and never changed; what runs frozen
    runs in inference mode.
    `cut`: the last thing in the trunk, by the module's own names: of a submodule or a traced operation in torch
    ("layer3.1", "layer3.1.add"), of a layer in Keras ("base/conv1", or "conv1" where only one is called so, of one
    inside of a model that is a layer), of a submodule in NNX and linen; also of one of several arrays that it
    gives ("last_hidden_state"). "its end": all of the module. What the model's `module_cut` says makes the same
    cut again. Default: before the classifier at the module's end, where there is one and `head` is no module; else
    the end.
    `head`: "rest" (the rest of the module), "linear" or a list such as [256, 0.5] (a fresh classifier on the
    pooled features, see `hs.model`), or a module of the same framework that takes the features. Where torch.fx
    cannot trace a module there is no rest to be had but its classifier, nor of several outputs.
    `classes`: the number or names of the classes. With the rest of the module, or a module, as head they are what
    it gives; by default with the names that it was published with, which transformers' `config.id2label` and the
    `label_names` of timm's `pretrained_cfg` say, else as numbers.
    `preprocess`: how images become what the module takes; torch modules get `(n, c, h, w)`, others `(n, h, w, c)`:
    an `hs.Preprocess`, torchvision's `weights.transforms()`, a Compose of its transforms for evaluation (as timm's
    `create_transform` and open_clip make them), a transformers image processor or KerasHub's image converter.
    Default: what a timm module's `pretrained_cfg` or a KerasHub task's `preprocessor` says; else inputs are taken
    as they are from `hs.data.arrays(x, y)`: one array (if it is `(n, h, w, c)`, torch modules get it as
    `(n, c, h, w)`), or a dict of arrays, which a torch or NNX module is called with as keyword arguments if its
    signature has these names, else as one dict; a Keras model by the names of its inputs.
    `example`: a batch of such inputs, or a data set; Keras models, and modules that take images, need none. Of a
    data set the module and its copy are compared on a few real samples.
    `name`: for listings; and the identity of a module whose code cannot be seen (defined in `exec`, a Keras Lambda
    layer ...), without which its features could not be told from another's.
    `init`: seed -> a module like `module` drawn anew (for functions: such `params`), for mode "scratch" where the
    framework has no word for it.
    `layout`: how a torch module orders the features at the cut, "nchw", "nhwc", "nlc" (or "tokens") or "ncl".
    Default: as the layers around the cut say; a fresh classifier refuses maps of which they say nothing. Core has
    `(n, h, w, c)` or `(n, t, c)` in any case.

    Raises SettingError and its kin: CutError, UnknownNameError.
    """
    if name is not None and (not isinstance(name, str) or not name):
        raise SettingError(f"name={name!r}; expected a text, such as 'my-encoder-v2'")
    if cut is not None and not isinstance(cut, str):
        raise CutError(f"cut={cut!r}; expected a name, such as 'layer3.1', or None")
    owner = registry.owner(module)
    if owner is None:
        raise SettingError(f"cannot wrap {_kind(module)}; expected {registry.wrappable()}{_instead(module)}")
    inputs = _inputs(owner, module, preprocess, example)
    shown = _shown(inputs, example)
    head_module = None if _is_plain(head) else head
    rest = isinstance(head, str) and head == REST
    if head_module is None and not rest:
        check_head(head)
        if classes is None:
            raise SettingError(f"head={head!r} makes a fresh classifier and needs classes=, their number or names")
    elif head_module is not None and registry.owner(head_module) is not owner:
        raise SettingError(
            f"head={_kind(head_module)} is no module of {owner.name}, which {_kind(module)} belongs to; expected "
            "'rest', 'linear', a list of hidden widths, or such a module"
        )
    called = name or _called(module)
    fresh = head_module is None and not rest
    request = WrapRequest(module, cut, rest, shown, params, init, rest, fresh, checked_layout(layout), "")
    wrapping = _wrapped(owner, called, inputs, request)
    _warn_of_scaled_twice(called, inputs, wrapping.rescales)
    wrapping = replace(wrapping, trunk=_known(wrapping.trunk, wrapping, name))
    try:
        wrapping, end = _checked(owner, wrapping, inputs, shown, example, head_module)
    except (HeadstartError, Warning):
        raise
    except Exception as error:  # of code that was read, or run on shapes alone, until now
        raise SettingError(
            f"{called} fails as it runs on two samples of {inputs}: {type(error).__name__}: "
            f"{str(error)[:ERROR_LENGTH]}. What it needs around it when it runs, such as a mesh, is needed around "
            "hs.wrap and hs.fit, too"
        ) from error
    if (structure := structure_of(wrapping.trunk.structure)) is not None:
        structure.forget_changing()
    if fresh and cut is None:
        tell_of_rectified(end, called, wrapping.cut)
    pool = _pool(wrapping, end, called) if fresh else None
    graph, names, named = _graph(wrapping, inputs, head, classes, name or called, pool)
    brought = {f"{TRUNK_NODE}.{key}": value for key, value in wrapping.params.items()}
    brought |= {f"{HEAD_NODE}.{key}": value for key, value in wrapping.head_params.items()}
    drawn = frozenset(graph.param_shapes().keys() - brought.keys())
    made = initial_params(graph, seed, drawn) | brought
    return Model(
        called,
        graph,
        {key: made[key] for key in graph.param_shapes()},
        inputs,
        names,
        head if head_module is None else "module",
        f"its own, cut {'' if wrapping.cut.startswith((BEFORE, 'between ')) else 'at '}{wrapping.cut}",
        drawn,
        named,
        POOL if POOL in graph else TRUNK_NODE,
        wrapping.cut,
    )


def _checked(
    owner: Backend, wrapping: Wrapping, inputs: Preprocess | Arrays, shown: Any, example: Any, head_module: Any
) -> tuple[Wrapping, np.ndarray | None]:
    """The parts as they were shown to run, each by itself and both as the module does; and what the module itself
    gives at its end for the samples, see `Witnessed`. `head_module`: becomes the head, of which the module itself
    says nothing."""
    wrapping, features, run_trunk = checked_trunk(owner, wrapping, inputs, shown)
    if head_module is not None:
        request = WrapRequest(head_module, None, False, features, None, None, True, False, None, wrapping.layout)
        other = _wrapped(owner, _called(head_module), f"features of shape {features.shape}", request)
        wrapping = replace(wrapping, head=other.trunk, head_params=other.params, labels=other.labels)
    logits = run_head = None
    if wrapping.head is not None:
        checked, logits, run_head = checked_head(owner, wrapping.head, wrapping.head_params, features)
        wrapping = replace(wrapping, head=checked)
    original = check_against_original(wrapping, shown, features, logits if head_module is None else None)
    wrapping = replace(wrapping, trunk=replace(wrapping.trunk, rounding=original.rounding))
    if wrapping.head is not None and head_module is None:
        wrapping = replace(wrapping, head=replace(wrapping.head, rounding=original.rounding))
    for pair in _real_pairs(inputs, example):
        check_real(wrapping, pair, run_trunk, run_head if head_module is None else None)
    return wrapping, original.end


def _graph(
    wrapping: Wrapping,
    inputs: Preprocess | Arrays,
    head: Head | Any,
    classes: int | Sequence[str] | None,
    head_name: str,
    pool: str | None,
) -> tuple[Graph, tuple[str, ...], bool]:
    """The model's graph, the names of its classes, and whether somebody gave them. `head_name`: by which a head is
    known that cannot be read. `pool`: the op that makes rows for a fresh one; None: there are rows."""
    trunk = wrapping.trunk
    if wrapping.head is None:
        assert classes is not None
        names, named = class_names(classes)
        if isinstance(inputs, Arrays) and pool == MEAN:
            shapes = {key: shape for key, shape, _ in inputs.entries}
            refuse_padding(shapes, trunk.output)
            warn_of_lengths(shapes, trunk.output)
        if len(trunk.output) > 3:
            raise SettingError(
                f"head={head!r} takes features of shape (h, w, c), (t, c) or (c,), and the trunk gives "
                f"{trunk.output}; pass a module as head, or cut elsewhere"
            )
        nodes = trunk_nodes(inputs, trunk)
        return _with_classifier(nodes, pool, trunk.output[-1], len(names), head), names, named
    names, named = _outputs(wrapping.head, classes, wrapping.labels)
    part = _known(wrapping.head, wrapping, head_name)
    node = Node(HEAD_NODE, "native", (TRUNK_NODE,), {"part": part})
    return Graph((*trunk_nodes(inputs, trunk), node), HEAD_NODE), names, named


def restored(model: Model, path: Path) -> dict[str, np.ndarray]:
    """The parameters of a wrapped model from a file that `Run.save` wrote: every name, shape and dtype as they are
    in the model, or WeightsError."""
    tensors, _ = read_tensors(path)
    names = model.layouts[0].names(model.graph)
    expected = {theirs: (tuple(shape), model.params[ours].dtype) for ours, (theirs, shape) in names.items()}
    misfit(
        str(path),
        [key for key in expected if key not in tensors],
        [key for key in tensors if key not in expected],
        [
            f"{key} {tensors[key].dtype} {tensors[key].shape} instead of {dtype} {shape}"
            for key, (shape, dtype) in expected.items()
            if key in tensors and (tensors[key].shape, tensors[key].dtype) != (shape, dtype)
        ],
    )
    return {ours: tensors[theirs] for ours, (theirs, _) in names.items()}


def _is_plain(head: Any) -> bool:
    if isinstance(head, str):
        return True
    return isinstance(head, list | tuple) and all(isinstance(width, int | float) for width in head)


def _kind(module: Any) -> str:
    return module.__name__ if isinstance(module, type) else f"an object of {type(module).__qualname__}"


def _instead(module: Any) -> str:
    """What to write in place of `hs.wrap(module)`, where that can be told; begins with a sentence's end."""
    if isinstance(module, Model):
        return ". This is a model already, which hs.fit takes as it is"
    if type(module).__name__ == "OnnxModel":
        return f". {ONNX}"
    if not isinstance(module, str | PathLike):
        return ""
    name = str(module)
    if name in ARCHITECTURES:
        return f". A name is no module: hs.model({name!r}, ...)"
    if name.lower().endswith(".onnx"):
        return f". hs.OnnxModel({name!r:.200}) predicts with such a file. {ONNX}"
    if name.lower().endswith(".safetensors"):
        return f". Such a file holds weights and no module: hs.model(name, weights={name!r:.200})"
    return (
        ". A path is no module: load it in the framework that wrote it; what headstart saved, hs.load(path).model"
    )


def _called(module: Any) -> str:
    if isinstance(module, list | tuple):
        return "+".join(getattr(part, "__name__", type(part).__name__) for part in module if part is not None)
    return type(module).__name__


def _inputs(owner: Backend, module: Any, preprocess: Any, example: Any) -> Preprocess | Arrays:
    if isinstance(preprocess, Preprocess):
        return preprocess
    if preprocess is not None and is_processor(preprocess):
        return preprocess_of(preprocess)
    if preprocess is not None:
        raise SettingError(
            f"preprocess={preprocess!r}; expected an hs.Preprocess, torchvision's transforms (of published "
            "weights, or a Compose), an image processor of transformers, an image converter of KerasHub, or None "
            "for inputs as they are"
        )
    if example is not None:
        return Arrays.like(_rows(example))
    stated = owner.inputs(module)
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


def _real_pairs(inputs: Preprocess | Arrays, example: Any) -> list[Any]:
    """Of a data set, pairs of samples drawn from all of it, as the graph's input has them: two at a time, since
    code may have been compiled for two."""
    if not isinstance(example, Dataset) or len(example) < 2:
        return []
    inputs.check(example)
    order = drawn(len(example), 2 * PAIRS)
    pairs = []
    for batch in batches(example, inputs, order[: len(order) // 2 * 2], 2, workers=1):
        images = batch.images
        pairs.append(inputs.normalise(images) if isinstance(inputs, Preprocess) else images)
    return pairs


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
    except (HeadstartError, Warning):  # a warning that is to be an error is no fault of the module's
        raise
    except Exception as error:  # of the user's own code, or of its copying
        try:
            chosen.attempt(request.native, request.example)
        except Exception as its:
            its = error if isinstance(its, HeadstartError) else its
            raise SettingError(
                f"{called} could not be run on two samples of what it is said to take, {inputs}: "
                f"{type(its).__name__}: {str(its)[:ERROR_LENGTH]}. If it takes something else, say so with "
                "preprocess= or example=; what its call needs besides, such as a flag `train`, give it in a "
                f"module of yours that calls it{_of_channels(inputs)}"
                f"{''.join(f'. {note}' for note in getattr(its, '__notes__', ()))}"
            ) from its
        cut = "" if request.cut is None else f", cut at {request.cut!r},"
        raise SettingError(
            f"{called} runs on two samples of {inputs}, and its copy{cut} does not: "
            f"{type(error).__name__}: {str(error)[:ERROR_LENGTH]}. Cut it elsewhere, or wrap a module that can be "
            "copied"
        ) from error


def _of_channels(inputs: Any) -> str:
    """For an error, where arrays look like images whose channels come first; else ""."""
    for _, shape, _ in inputs.entries if isinstance(inputs, Arrays) else ():
        if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
            last = "Channels are the last axis of an example, whatever the framework"
            return f". {last}; of {shape} they seem the first"
    return ""


ALIKE = 0.1  # pixels of 0 to 255, standardised, span 4; scaled to 0..1 and once more by 1 / 255, 0.004


def _warn_of_scaled_twice(called: str, inputs: Preprocess | Arrays, factor: float) -> None:
    """Pixels that `preprocess=` scales, and then the module itself, look all alike to it. A warning only, since
    whoever trained so may have to go on."""
    if factor == 1 or isinstance(inputs, Arrays):
        return
    span = 255 * inputs.scale / min(inputs.std)
    if span * factor < ALIKE:
        warnings.warn(
            f"{called} itself multiplies pixels by {factor:.3g}, and preprocess= gives it numbers that lie within "
            f"{span:.3g} of each other: every picture will look alike to it. If it takes pixels of 0 to 255, pass "
            "hs.Preprocess(..., mean=(0, 0, 0), std=(1, 1, 1), scale=1)",
            DataWarning,
            stacklevel=3,
        )


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


def _pool(wrapping: Wrapping, end: np.ndarray | None, called: str) -> str | None:
    """The op that makes a row for a fresh classifier of what the trunk gives; None where that is one. `end`: what
    the module itself gives for the samples that `token_logits` are of."""
    shape = wrapping.trunk.output
    if len(shape) != 2:
        return "global_avg_pool" if len(shape) == 3 else None
    return told_pooling(wrapping.token_logits, end, shape, called, wrapping.cut)


def _with_classifier(nodes: tuple[Node, ...], pool: str | None, channels: int, classes: int, head: Head) -> Graph:
    b = Builder()
    b.nodes = list(nodes)
    x = TRUNK_NODE if pool is None else b.add(POOL, pool, TRUNK_NODE)
    return b.graph(classifier(b, HEAD_NODE, x, channels, classes, check_head(head)))


def _outputs(
    head: NativePart, classes: int | Sequence[str] | None, labels: Sequence[Any]
) -> tuple[tuple[str, ...], bool]:
    """The names of what the head gives, and whether somebody chose them. `labels`: what the module calls them."""
    if len(head.output) != 1:
        raise SettingError(
            f"the head gives {head.output} a sample, expected (classes,); head='linear' makes a fresh classifier"
        )
    if classes is None:
        return class_names(published(labels, head.output[0]) or head.output[0])
    names, named = class_names(classes)
    if len(names) != head.output[0]:
        raise SettingError(
            f"the module's own head gives {head.output[0]} classes, and {len(names)} were asked for; "
            "head='linear' makes a fresh classifier behind the cut"
        )
    return names, named
