"""Where weights come from: a published name, a name that the user gave to a file of their own, or a path.

What is read is always safetensors, which holds tensors only; `hub` and `pickles` see to it that there is one.
Invariant: whatever `weights=` names is either read whole, or nothing of it is used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DownloadError, SettingError, UnknownNameError, WeightsError
from headstart.common.places import expanded
from headstart.common.reading import check_regular, parse_json
from headstart.common.text import shortened
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.data.names import normal
from headstart.data.preprocess import Preprocess
from headstart.graph import Graph
from headstart.models import classes, hub, imported, packaged, pickles
from headstart.models.architecture import Architecture, Hub, Packaged, Pickled, Published, Shipped
from headstart.models.layouts import fitted, unwrapped
from headstart.models.pins import Pin, key
from headstart.models.tensors import as_float32, read_tensors
from headstart.models.zoo import ARCHITECTURES, architecture

RANDOM = "none"
"""the word for no weights, which no weights are called: to the command line and to Python alike"""
INDEX = ".safetensors.index.json"
# What downloads are called while they last: here, and in huggingface_hub, browsers and wget.
UNFINISHED = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".tmp")


@dataclass(frozen=True)
class WeightFile:
    """A weight file's content."""

    source: str
    params: dict[str, np.ndarray]
    """float32, by the names in the file"""
    preprocess: Preprocess | None
    """the preprocessing it was trained with, where the file says so"""
    classes: tuple[str, ...] | None
    means: Mapping[str, Any] = field(default_factory=dict)
    """`task` and `threshold` of a `Model` with its classifier, where the file says them"""


def load_weights(arch: Architecture, weights: str | Path) -> WeightFile:
    """What `weights` means: a published name of the architecture, one that `headstart weights import` gave, or
    the path of a file.

    A published file that is not here is downloaded. Raises WeightsError, DownloadError, UnknownNameError, and
    BackendError where a pickle is to be read and there is no torch that can.
    """
    if not isinstance(weights, str | os.PathLike):
        raise SettingError(f"weights={weights!r}; expected None, a published name or the path of a file")
    if (published := arch.weights.get(str(weights))) is not None:
        path = published_file(published)
        published = packaged.at_hand(published)
        if isinstance(published, Shipped):
            return read_weights(path)
        file = _packaged(published, path) if isinstance(published, Packaged) else read_weights(path)
        return _as_stated(arch, published, file)
    if (own := imported.find(arch.name, str(weights))) is not None:
        return read_weights(own)
    path = expanded(weights)
    check_regular(path, WeightsError)
    if path.is_file():
        return read_weights(path)
    if path.suffix or len(path.parts) > 1:
        raise WeightsError(f"{path}: no such weight file; expected a .safetensors file with {arch.name}'s names")
    known = [*arch.weights, *imported.names(arch.name)]
    raise UnknownNameError("weights", str(weights), [*known, RANDOM], f" for {arch.name}")


def weights_for(model: str, option: str | None) -> str | None:
    """What `weights=` of `hs.model` is for the text of an option: left out, it means the model's first published
    weights, if it has any; "none" means random ones."""
    if option is None:
        return next(iter(architecture(model).weights), None)
    return None if option == RANDOM else option


def _packaged(published: Packaged, path: Path) -> WeightFile:
    """What an installed package brings."""
    tensors = {name: value for name, value in packaged.read(path, published).items() if value.dtype.kind == "f"}
    params = {name: as_float32(path, name, value) for name, value in tensors.items()}
    return WeightFile(str(path), unwrapped(params), None, None)


def published_file(published: Published) -> Path:
    """The file of published weights, downloaded and converted if need be: safetensors, but for a package's own."""
    match published:
        case Packaged():
            return packaged.find(published) or _from_hub(published)
        case Shipped():
            return Path(str(resources.files("headstart.models") / published.file))
        case Hub():
            return hub.fetch(published)
        case Pickled():
            return pickles.fetch_pickled(published)


def is_here(published: Published) -> bool:
    """Whether published weights need no network any more; what their file holds is not verified."""
    match published:
        case Packaged():
            return packaged.find(published) is not None or hub.here(published.otherwise)
        case Shipped():
            return True
        case Hub():
            return hub.here(published)
        case Pickled():
            return pickles.here(published)


def _from_hub(published: Packaged) -> Path:
    """What the hub has in place of a package that is not installed."""
    try:
        return hub.fetch(published.otherwise)
    except DownloadError as error:
        mend = packaged.other_version(published) or f"a package has them: {packaged.how_to_install(published)}"
        raise DownloadError(f"{error}; {mend}") from error


def read_weights(path: Path) -> WeightFile:
    """Read a safetensors file; WeightsError where it is none or is cut short."""
    if path.suffix in pickles.SUFFIXES:
        raise WeightsError(
            f"{path}: a pickle, which can run any code when it is read; convert it to .safetensors, or see "
            "`headstart weights import --help`"
        )
    if path.name.endswith(INDEX):
        raise WeightsError(
            f"{path}: the index of weights that lie in several files; write those into one .safetensors file "
            "(safetensors' load_file of each, and save_file of all their tensors), and name that"
        )
    if path.suffix in UNFINISHED:
        raise WeightsError(f"{path}: by its name a download that was not finished; is it complete?")
    tensors, metadata = read_tensors(path)
    params = {name: as_float32(path, name, array) for name, array in tensors.items()}
    try:
        preprocess = parse_json(metadata["preprocess"]) if "preprocess" in metadata else None
        classes = parse_json(metadata["classes"]) if "classes" in metadata else None
        if classes is not None and not (isinstance(classes, list) and len(set(map(str, classes))) == len(classes)):
            raise ValueError("classes is no list of distinct names")
        return WeightFile(
            str(path),
            unwrapped(params),
            Preprocess.from_dict(preprocess) if preprocess is not None else None,
            tuple(normal(str(name)) for name in classes) if classes is not None else None,
            _meant(metadata),
        )
    except (ValueError, TypeError, AttributeError, SettingError) as error:
        raise WeightsError(f"{path}: its metadata cannot be read ({error})") from error


def meaning(task: str = SINGLE, threshold: float | None = None) -> dict[str, str]:
    """The entries of a weight file's metadata that say what the outputs of its classifier mean, see `Model.task`;
    none of one class a sample, which is what a file means that has no such entry."""
    if task == SINGLE:
        return {}
    return {"task": task, **({"threshold": json.dumps(threshold)} if task == MULTI else {})}


def _meant(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of `meaning`. ValueError for a threshold that is none. Other programs' files may have a `task`
    that means something else."""
    task = metadata.get("task")
    if task not in (MULTI, REGRESSION):
        return {}
    if task == REGRESSION:
        return {"task": task}
    threshold = parse_json(metadata.get("threshold", "null"))
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise ValueError(f"its threshold is {shortened(str(threshold))}; expected a probability")
    return {"task": task, "threshold": threshold}


def _as_stated(arch: Architecture, published: Hub | Pickled | Packaged, file: WeightFile) -> WeightFile:
    """The file's tensors with the preprocessing and the classes of the architecture, which knows better."""
    match published:
        case Hub():
            source = f"{published.repo}/{published.file}"
        case Packaged():
            source = f"{published.distribution}/{published.file}"
        case Pickled():
            source = published.url
    file = replace(file, source=source, preprocess=published.preprocess, classes=None)
    if published.classes is None:
        # Its last layer, where there is one, is no classifier: a projection, or left from another training.
        layers = tuple(f"{name.rpartition('.')[0]}." for name in arch.classifier_names())
        return replace(file, params={n: v for n, v in file.params.items() if not n.startswith(layers)})
    names = class_names(published.classes)
    return replace(file, classes=names if count_outputs(arch, file.params) == len(names) else None)


def class_names(of: str) -> tuple[str, ...]:
    """The names of a published classifier's outputs, by the name of the data set."""
    return tuple({"imagenet": classes.imagenet}[of]())


def count_outputs(arch: Architecture, params: Mapping[str, np.ndarray]) -> int | None:
    """How many classes the classifier among `params` has, by the names of any layout; None: there is none."""
    ours = f"{arch.scoring}.weight"
    theirs = [layout.rename(ours, arch.graph(2).param_shapes()[ours])[0] for layout in arch.layouts]
    return next((len(params[name]) for name in theirs if name in params), None)


def fit_to(
    arch: Architecture, source: str, params: Mapping[str, np.ndarray], size: int | None = None
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The architecture's graph with as many classes as the file has, and the parameters that the file has of it:
    all but auxiliary classifiers, and but the classifier where it has none.

    Raises WeightsError for anything else, and for positions that were trained at another size than `size`.
    """
    count = count_outputs(arch, params)
    graph = arch.graph(count or 2, "linear", size)
    classifiers = tuple(f"{node}." for node in (arch.classifier, *(node for node, _ in graph.auxiliary)))
    skip = [name for name in graph.param_shapes() if count is None and name.startswith(classifiers)]
    _check_positions(arch, source, params, graph)
    extra = graph.param_shapes().keys() - graph.main.param_shapes().keys()
    return graph, fitted(source, params, graph, arch.layouts, skip, extra)


def _check_positions(arch: Architecture, source: str, params: Mapping[str, np.ndarray], graph: Graph) -> None:
    """Positions are resized when a model is made; here they would lose what the file has without a word."""
    params = unwrapped(params)
    for node in graph.nodes:
        if node.op != "position":
            continue
        shape = graph.param_shapes()[f"{node.name}.weight"]
        for layout in arch.layouts:
            found = params.get(layout.rename(f"{node.name}.weight", shape)[0])
            if found is not None and found.size != math.prod(shape):
                raise WeightsError(
                    f"{source} has {found.size // shape[-1]} positions, and {arch.name} has {shape[0]} at this "
                    "size; say which one it was trained with (--size)"
                )


# ---- what there is


def hub_files() -> dict[str, tuple[Architecture, Hub]]:
    """Every file of the hub that an architecture names, by its key in tables of pins."""
    return {
        key(published): (arch, published)
        for arch in ARCHITECTURES.values()
        for entry in arch.weights.values()
        for published in [entry.otherwise if isinstance(entry, Packaged) else entry]
        if isinstance(published, Hub)
    }


def check_published(arch: Architecture, published: Hub, pin: Pin) -> None:
    """WeightsError unless the names and shapes of the file at `pin` are those of the architecture."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in hub.shapes(published, pin).items()}
    file = _as_stated(arch, published, WeightFile(key(published), unwrapped(tensors), None, None))
    fit_to(arch, file.source, file.params, published.preprocess.size)
