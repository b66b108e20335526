"""A layer made again from its configuration, and what that leaves out.

Invariant: a layer of Keras's own is made of what its get_config says. One of somebody else's may say too little,
too much or nothing, and is made of what its __init__ was given; what cannot be told is refused.
"""

from __future__ import annotations

import inspect
import types
import warnings
from contextlib import suppress
from typing import Any

import keras

from headstart.common.errors import HeadstartError, SettingError

# what Keras says to call where a layer that runs a file is to be made from its configuration
UNSAFE = "enable_unsafe_deserialization"


def is_keras(code: Any) -> bool:
    """Whether Keras itself has a class or function."""
    return str(getattr(code, "__module__", "")).partition(".")[0] == "keras"


def anew(layer: Any) -> Any:
    """A layer like this one, with weights of its own."""
    if isinstance(layer, keras.layers.Lambda):  # its configuration would have to be unmarshalled
        more = {"name": layer.name, "dtype": layer.dtype_policy}
        return keras.layers.Lambda(layer.function, layer._output_shape, layer.mask, layer.arguments, **more)
    return configured(type(layer), layer)


def configured(kind: type, layer: Any, **changes: Any) -> Any:
    """A layer from another's configuration with some changes."""
    config, functions = settings_of(layer)
    config = {**config, **{name: value for name, value in changes.items() if name in config}}
    try:
        clone = _made(kind, config, functions)
    except HeadstartError:
        raise
    except Exception as error:
        raise _no_copy(layer, error) from error
    if "name" not in config:  # as of a layer that takes `**settings`, whose configuration Keras works out
        clone.name = layer.name
    return clone


def _made(kind: Any, config: dict[str, Any], functions: dict[str, Any]) -> Any:
    without = {**config, **dict.fromkeys(functions)}
    # Layers that it makes of its functions at once have them, too.
    given = without | functions if _is_plainly_made(kind) else without
    try:
        clone = kind.from_config(dict(given))
    except Exception as error:
        if is_keras(kind):
            raise
        clone = _made_otherwise(kind, given, without, error)
    for name, value in functions.items():
        setattr(clone, name, value)
    return clone


def _made_otherwise(kind: Any, given: dict[str, Any], without: dict[str, Any], error: Exception) -> Any:
    """A layer of a class of somebody's own that does not take its configuration: some also say what they have
    worked out, or read what they cannot write, or want no functions. Raises `error` where that is not it."""
    with suppress(Exception):
        return kind(**{name: value for name, value in given.items() if name in _taken(kind)})
    with suppress(Exception):
        return kind.from_config(dict(without))
    raise error


def settings_of(layer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A layer's configuration, and those of its settings that are functions of the user's own, which no
    configuration can hold."""
    functions = {name: value for name, value in vars(layer).items() if is_own_function(value)}
    public = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
    callables = {name: value for name, value in public.items() if _is_own_callable(value)}
    try:
        config = _config(layer)
        if any(name in config for name in callables):
            _made(type(layer), config, {name: value for name, value in functions.items() if name in config})
    except Exception as error:
        if not callables:
            if not (config := _worked_out(layer, functions)):
                raise _no_copy(layer, error) from error
            return config, {name: value for name, value in functions.items() if name in config}
        # A partial, a compiled function, an object that can be called: a shadow has others in their place.
        functions |= callables
        shadow = object.__new__(type(layer))
        vars(shadow).update(vars(layer) | dict.fromkeys(callables, keras.activations.linear))
        try:
            config = _config(shadow)
        except Exception:
            raise _no_copy(layer, error) from error
    return config, {name: value for name, value in functions.items() if name in config}


def _config(operation: Any) -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):  # of lambdas, which are not read from there
        config: dict[str, Any] = operation.get_config()
    return {**config, **_left_out(operation, config)} if _is_plainly_made(type(operation)) else config


def _left_out(operation: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What a layer that is not Keras's own was made with and does not say: get_config is easily forgotten when a
    parameter is added. Keras notes what __init__ was given, where that is plain; else it is an attribute of that
    name."""
    kind = type(operation)
    noted = getattr(getattr(operation, "_auto_config", None), "config", {})
    found = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        value = noted.get(name, vars(operation).get(name, parameter.default))
        if name not in config and _is_plain(value) and value != parameter.default:
            found[name] = value
    return found


def _worked_out(layer: Any, functions: dict[str, Any]) -> dict[str, Any]:
    """What a layer was made with, where its get_config raises; empty where that cannot be told."""
    kind = type(layer)
    if is_keras(kind) or not isinstance(layer, keras.layers.Layer):
        return {}
    parameters = inspect.signature(kind.__init__).parameters
    config: dict[str, Any] = keras.layers.Layer.get_config(layer)
    config |= _left_out(layer, config) | {name: None for name in functions if name in parameters}
    return {} if any(_is_needed(p) and name not in config for name, p in parameters.items()) else config


def _is_needed(parameter: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.name != "self" and parameter.default is parameter.empty and parameter.kind not in variable


def _is_plainly_made(kind: Any) -> bool:
    """Whether it is a class of somebody's own, whose configuration is what __init__ takes."""
    return not is_keras(kind) and is_keras(kind.from_config)


def _is_plain(value: Any) -> bool:
    plain = str | int | float | bool | None | type
    return all(
        isinstance(entry, plain) and entry is not inspect.Parameter.empty for entry in keras.tree.flatten(value)
    )


def _taken(kind: Any) -> set[str]:
    """The names that __init__ takes, those that it hands on to what it inherits from too."""
    return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}


def _no_copy(layer: Any, error: Exception) -> SettingError:
    said = str(error).partition("\n")[0][:200]
    mend = "Let its get_config say all that its __init__ takes"
    if UNSAFE in str(error):
        mend = f"If you trust the file that it loads, call keras.config.{UNSAFE}() before hs.wrap"
    return SettingError(
        f"layer {layer.name!r} ({type(layer).__name__}) cannot be made again from its configuration "
        f"({type(error).__name__}: {said}). {mend}"
    )


def is_own_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and not is_keras(value)


def _is_own_callable(value: Any) -> bool:
    return callable(value) and not (
        isinstance(value, type | types.FunctionType | keras.Operation) or is_keras(type(value)) or is_keras(value)
    )
