"""A copy of a user's functional keras.Model that holds all that the model holds.

Invariants: the user's model and its layers are never touched, since a layer that is called again remembers it. A
copy computes what the model computes, or is refused: layers are made from their configuration, weights are set,
and what a layer holds beside both (tables, statistics that were adapted) goes over as Keras itself saves and loads
it. What is held in no such way (an attribute set afterwards, a call replaced) is found by comparing outputs.
"""

from __future__ import annotations

import inspect
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from blake3 import blake3

from headstart.backends.keras.arrays import to_numpy
from headstart.backends.keras.configuration import anew, is_keras
from headstart.common.errors import SettingError
from headstart.common.text import counted

# modules of layers whose `load_own_variables` sets weights and nothing else
PLAIN = (
    "keras.src.layers.layer",
    "keras.src.layers.core.",
    "keras.src.layers.convolutional.",
    "keras.src.models.",
)
# Copies are the same operations on the same numbers; engines may still order sums otherwise from call to call.
SAME_OUTPUT = 1e-4


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Keras draws the seeds of layers that have none from Python's own generator: lend it one."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def reproducible(model: keras.Model) -> None:
    """Let layers draw from their own seeds. On torch Keras lets a dropout that was given no seed draw from torch's
    global generator, whatever seed it was lent."""
    for layer in layers_of(model):
        for generator in layer._seed_generators:
            if generator._initial_seed is None:
                generator._initial_seed = 0  # it draws from its state


def copied(model: keras.Model) -> keras.Model:
    """A functional model with layers, weights and state of its own, all of which may be trained."""
    check_functional(model)
    with seeded(0):
        clone = cloned(keras.Model(one_or_all(model.inputs), structure_of(model), name=model.name), anew)
    before, after = weights_of(model), weights_of(clone)
    if [tuple(w.shape) for w in before] != [tuple(w.shape) for w in after]:
        raise SettingError(
            f"{model.name} cannot be copied: made again from the configuration of its layers, it has other "
            "weights. A layer of your own must say all that it is made of in get_config"
        )
    for own, weight in zip(before, after, strict=True):
        weight.assign(to_numpy(own.value))
    carry(model, clone)
    return thawed(clone)


def check_functional(model: keras.Model) -> None:
    """SettingError unless what the model computes is what its layers say."""
    kind = type(model)
    if not getattr(model, "inputs", None) or not (
        isinstance(model, keras.Sequential) or hasattr(model, "operations")
    ):
        raise SettingError(
            f"{kind.__name__} is no functional keras.Model with known inputs: what it computes is in its "
            "call() and cannot be cut. Make it of layers, keras.Model(inputs, outputs), or build the Sequential"
        )
    for part in [model, *(layer for layer in layers_of(model) if is_functional(layer))]:
        for name in ("call", "__call__"):
            code = getattr(type(part), name)
            if name in vars(part) or not (is_keras(code) or (name == "__call__" and _is_checked(code))):
                raise SettingError(
                    f"{name}() of {part.name!r} ({type(part).__name__}) is not that of a functional keras.Model: "
                    "what it computes is not what its layers say, so it cannot be cut. Put it into layers"
                )


def is_functional(layer: Any) -> bool:
    return isinstance(layer, keras.Model) and (isinstance(layer, keras.Sequential) or hasattr(layer, "operations"))


def _is_checked(code: Any) -> bool:
    """Whether it is KerasHub's: its tasks look whether they are given texts, and then do what Keras does."""
    return str(getattr(code, "__module__", "")) == "keras_hub.src.utils.pipeline_model"


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers but inputs, those inside of layers and models too, in an order that copies share: a class of its
    own, as KerasHub's backbones are, holds them in the order of its attributes, with some that it never calls, and
    a model may have the inputs of one inside."""
    found: dict[int, keras.layers.Layer] = {}

    def look(layer: keras.layers.Layer) -> None:
        for inner in _called(layer) if is_functional(layer) else layer._layers:
            if id(inner) not in found and not isinstance(inner, keras.layers.InputLayer):
                found[id(inner)] = inner
                look(inner)

    look(model)
    return list(found.values())


def _called(model: keras.Model) -> list[keras.layers.Layer]:
    return [operation for operation in functional(model).operations if isinstance(operation, keras.layers.Layer)]


def weights_of(model: keras.Model) -> list[keras.Variable]:
    """All weights, in an order that copies share."""
    own = (w for layer in layers_of(model) for w in (*layer._trainable_variables, *layer._non_trainable_variables))
    return list({id(weight): weight for weight in own}.values())


def quantized_layer(model: keras.Model) -> str:
    """The name and kind of the first layer whose weights are integers that stand for others; "" without one."""
    for layer in layers_of(model):
        if kind := getattr(layer.dtype_policy, "quantization_mode", None):
            return f"{layer.name!r} ({kind})"
    return ""


def thawed(model: keras.Model) -> keras.Model:
    """The model with all of its layers trainable; a nested one's layers have to be told each. What a trainable
    layer itself has frozen, as LoRA does with kernels, stays so; Keras on PyTorch would thaw it, too."""
    own = [v for layer in model._flatten_layers() if layer.trainable for v in layer._trainable_variables]
    frozen = [variable for variable in own if not variable.trainable]
    model.trainable = True
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            thawed(layer)
        else:
            layer.trainable = True
    for variable in frozen:
        variable.trainable = False
    return model


def structure_of(model: keras.Model) -> Any:
    """The tensors that a model gives, as it gives them: one, or a list or dict of them."""
    return getattr(functional(model), "_outputs_struct", one_or_all(model.outputs))


def one_or_all(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors


def cloned(model: keras.Model, layer: Callable[[Any], Any], call: Callable[..., Any] | None = None) -> keras.Model:
    """The model with what `layer` makes of each of its layers, called by `call` where that is given."""
    return keras.models.clone_model(model, clone_function=layer, call_function=call, recursive=True)


def called_calmly(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a layer of a model that is being made: it draws only where somebody says that it trains. Those that
    augment images draw by default, of which Keras makes a record as if it had been said, and so does a model or
    layer that holds such, where none is told. `fit` tells every layer."""
    inside = layer._flatten_layers() if isinstance(layer, keras.Layer) else ()
    if _training(layer) and any(map(_draws_by_default, inside)):
        kwargs["training"] = False
    return layer(*args, **kwargs)


def _training(layer: Any) -> inspect.Parameter | None:
    """The parameter of a layer's call that says whether it trains."""
    return inspect.signature(layer.call).parameters.get("training")


def _draws_by_default(layer: Any) -> bool:
    parameter = _training(layer)
    return parameter is not None and parameter.default is True


# ---- what else layers hold


def carry(model: keras.Model, clone: keras.Model) -> None:
    """Give the clone's layers what the model's hold beside configuration and weights."""
    pairs = list(zip(layers_of(model), layers_of(clone), strict=False))
    alike = all(isinstance(after, type(before) | keras.Model) for before, after in pairs)
    if not alike or len(layers_of(model)) != len(layers_of(clone)):
        raise SettingError(
            f"{model.name} cannot be copied: made again from the configuration of its layers, it has other layers "
            "inside of them. A layer of your own must say all that it is made of in get_config"
        )
    for before, after in pairs:
        if has_state(before):
            after.load_own_variables(_stored(before))
        if (files := _assets(before)) and _assets(after) != files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                    (Path(folder) / name).write_bytes(content)
                after.load_assets(folder)


def settle(model: keras.Model) -> None:
    """To be called after weights were set: layers that keep something made of them make it again."""
    for layer in layers_of(model):
        if has_state(layer):
            layer.load_own_variables(_stored(layer))


def has_state(layer: Any) -> bool:
    module = str(type(layer).load_own_variables.__module__)
    return not module.startswith(PLAIN)


def _stored(layer: Any) -> dict[str, np.ndarray]:
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    return {
        name: np.array(to_numpy(value.value if isinstance(value, keras.Variable) else value))
        for name, value in store.items()
    }


def _assets(layer: Any) -> dict[str, bytes]:
    """File -> content, of what the layer would save beside its weights."""
    if _is_plain_assets(layer):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def _is_plain_assets(layer: Any) -> bool:
    save = getattr(type(layer), "save_assets", None)
    return save is None or str(save.__module__).startswith("keras.src.layers.layer")


def told_state(layer: Any) -> list[Any]:
    """JSON-able: what the key of features has to know of a layer beside its configuration and weights. Empty for
    almost all."""
    told: list[Any] = []
    for inner in [layer, *layer._flatten_layers(include_self=False)] if isinstance(layer, keras.Layer) else []:
        if files := _assets(inner):
            told.append([[name, blake3(content).hexdigest(length=16)] for name, content in files.items()])
        # Its weights are in the key as any other's. But copies used to have mean 0 and variance 1 in their place,
        # and features made so must not be found.
        if isinstance(inner, keras.layers.Normalization) and inner.input_mean is None and inner.built:
            mean, variance = (np.asarray(to_numpy(w.value)) for w in (inner.adapt_mean, inner.adapt_variance))
            if mean.any() or (variance != 1).any():
                told.append("adapted")
    return told


# ---- the copy against the model


def check_clone(model: keras.Model, clone: keras.Model, rows: list[Any]) -> None:
    """SettingError unless both compute the same of `rows`, two samples for each input in the model's order; it
    says which layer differs."""
    first = outputs(model, rows)
    worst = max(map(differ, first, outputs(clone, rows)))
    if worst and not any(map(differ, first, outputs(model, rows))):  # else it differs from itself: core says so
        name = _first_difference(functional(model), functional(clone), rows) or model.name
        raise SettingError(
            f"the copy that would be trained computes something else than {model.name}: its outputs differ by "
            f"{worst:.3g} of the largest, and layer {name!r} is the first that does. It holds something that its "
            "get_config does not say, such as an attribute that was set, or a method that was replaced, after it "
            "was made: pass it to __init__, and let get_config return it"
        )


def tell_of_losses(clone: keras.Model) -> None:
    """Warn of losses that layers add to what is trained by; `clone` has just been called. What we train by is the
    task's loss."""
    if adding := [layer.name for layer in layers_of(clone) if not is_functional(layer) and layer.losses]:
        others = len(adding) - 1
        more = f", and so {'does' if others == 1 else 'do'} {counted(others, 'more layer')}" if others else ""
        warnings.warn(
            f"layer {adding[0]!r} adds a loss of its own (a regularizer, add_loss){more}; "
            "headstart trains by the task's loss alone. To keep weights small use optimizer="
            "hs.AdamW(weight_decay=...) or hs.SGD(weight_decay=...)",
            stacklevel=2,
        )


def outputs(model: keras.Model, rows: list[Any]) -> list[np.ndarray]:
    """All outputs, in inference. A model made of a dict or list of inputs is called with such, as its owner does,
    since Keras warns of others."""
    form = getattr(functional(model), "_inputs_struct", None)
    given = one_or_all(rows) if form is None else keras.tree.pack_sequence_as(form, rows)
    found = model(given, training=False)
    return [np.asarray(to_numpy(output)) for output in keras.tree.flatten(found)]


def functional(model: keras.Model) -> keras.Model:
    """The graph of layers that a model is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def differ(first: np.ndarray, second: np.ndarray) -> float:
    """By how much of the largest value two outputs differ; 0 where they do not."""
    if first.shape != second.shape:
        return float("inf")
    first, second = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True):
        return float("inf")
    scale = float(np.abs(first[finite]).max(initial=0.0))
    worst = float(np.abs(first - second)[finite].max(initial=0.0))
    return worst / scale if worst > SAME_OUTPUT * scale else 0.0


def _first_difference(model: keras.Model, clone: keras.Model, rows: list[Any]) -> str | None:
    """The name of the first layer whose outputs differ, inside of a nested model the layer there."""
    steps = list(zip(calls(model), calls(clone), strict=True))
    theirs, ours = (
        iter(outputs(keras.Model(one_or_all(m.inputs), [x for node in calls(m) for x in node.outputs]), rows))
        for m in (model, clone)
    )
    made: dict[int, np.ndarray] = {}
    for node, copy in steps:
        layer, differs = node.operation, False
        for tensor in node.outputs:
            made[id(tensor)] = next(theirs)
            differs |= differ(made[id(tensor)], next(ours)) > 0
        if differs and is_functional(layer):
            given = [made[id(tensor)] for tensor in node.input_tensors]
            return _first_difference(functional(layer), functional(copy.operation), given) or str(layer.name)
        if differs:
            return str(layer.name)
    return None


def calls(model: keras.Model) -> list[Any]:
    """The calls of layers and operations in a functional model, in order, its inputs first."""
    depths = model._nodes_by_depth
    return [node for depth in sorted(depths, reverse=True) for node in depths[depth]]
