"""What `fit` returns: the trained model, what was recorded on the way, and the ways to take it with you.

A saved run is a folder: `weights.safetensors`, with torchvision's names and layout, so that torchvision's own
models load it, and `run.json` with everything else. No pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from headstart import __version__
from headstart import backend as backends
from headstart.data import Arrays, Dataset
from headstart.data.preprocess import Preprocess
from headstart.errors import SettingError, WeightsError
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.files import replace_whole
from headstart.features.keys import spec_digest
from headstart.inference import predict, predict_features
from headstart.models import Model, architecture
from headstart.models.layouts import fitted, published
from headstart.models.weights import read_weights
from headstart.models.wrapped import restored
from headstart.training.checks import check_labels, features_at
from headstart.training.history import History
from headstart.training.metrics import accuracy, cross_entropy, softmax
from headstart.training.validation import Validation

if TYPE_CHECKING:
    from headstart.training.comparison import Comparison

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on labelled samples."""

    samples: int
    loss: float
    """mean cross-entropy"""
    accuracy: float
    """share of the samples whose class has the largest logit"""


@dataclass(frozen=True)
class Run:
    """A trained model and its record."""

    model: Model
    """with the trained weights"""
    mode: str
    cut: str | None
    """None where everything was trained"""
    backend: str
    history: History
    head_history: History = field(default_factory=History)
    """of `staged`: the first stage, in which the head was trained on the cache"""
    extraction: ExtractionStats | None = None
    seconds: float = 0.0
    """wall time of the whole call"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """enough to repeat it: optimiser, schedule, seed, batch size, device, dtypes, versions"""
    data: Mapping[str, Any] = field(default_factory=dict)
    """name, numbers of samples, classes"""
    trained: int | None = None
    """the number of parameters that were trained"""
    validation: Validation | None = None
    """what was right and wrong after the last epoch; None where there were no validation data"""
    before: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """the weights of the network's first two convolutions, `(out, in, h, w)`, as training began; not saved"""
    val: Dataset | FeatureSet | None = field(default=None, repr=False)
    """what it was validated on, for pictures in its report; not saved"""

    @cached_property
    def native(self) -> Any:
        """The backend's own model, trunk and head joined, in inference mode: a torch.nn.Module that takes
        `(n, 3, h, w)`, a keras.Model or a flax.nnx.Module that take `(n, h, w, 3)`, preprocessed float32. Of a
        wrapped model, what the module itself takes, a dict of arrays as a dict."""
        return backends.load(self.backend).native(self.model.graph, self.model.params)

    def predict(
        self,
        images: Dataset | FeatureSet | np.ndarray | Sequence[Any],
        *,
        batch_size: int = 64,
        device: str = "auto",
        workers: int | None = None,
    ) -> np.ndarray:
        """float32 logits `(n, classes)`.

        `images`: a data set; uint8 `(n, h, w, 3)`; a list of paths, Pillow images or uint8 arrays of any size,
        all of which are preprocessed as the model needs; or float32 `(n, h, w, 3)`, taken as preprocessed
        already. Or features of this model's trunk at the cut behind which it was trained: then no image is needed.
        Raises ImageError for a file that cannot be decoded, SettingError for features of another trunk.
        """
        if isinstance(images, FeatureSet):
            here = features_at(self.model, images, self.cut or self.model.default_cut)
            return predict_features(
                self.model, here, here.cuts[0], backend=self.backend, batch_size=batch_size, device=device
            )
        return predict(
            self.model, images, backend=self.backend, batch_size=batch_size, device=device, workers=workers
        )

    def probabilities(self, images: Dataset | np.ndarray | Sequence[Any], **settings: Any) -> np.ndarray:
        """float64 `(n, classes)`: the softmax of `predict`, which takes the same arguments."""
        return softmax(self.predict(images, **settings))

    def evaluate(self, data: Dataset | FeatureSet, **settings: Any) -> Evaluation:
        """Loss and accuracy on labelled samples, or on features of this model's trunk. `settings`: of `predict`.

        Raises DataError where the data's classes are not the model's.
        """
        check_labels(self.model, data, "given")
        logits = self.predict(data, **settings)
        return Evaluation(
            len(data), float(cross_entropy(logits, data.labels).mean()), accuracy(logits, data.labels)
        )

    @cached_property
    def kernels(self) -> dict[str, Any] | None:
        """JSON-able: the first convolution's kernels before, after, and their difference, as pictures (data URIs);
        None where there is none, or where the run was loaded from a file."""
        from headstart.report.pictures import kernels

        for name, before in self.before.items():
            return kernels(name.removesuffix(".weight"), before, self.model.params[name])
        return None

    def report(self, path: str | Path) -> Path:
        """Write the run as one HTML file that needs no network; returns its path. SettingError where it cannot be
        written."""
        return self._comparison().report(path)

    def _repr_html_(self) -> str:
        return self._comparison()._repr_html_()

    def _comparison(self) -> Comparison:
        from headstart.training.comparison import comparison

        return comparison([self])

    def save(self, path: str | Path) -> Path:
        """Write the run to the folder `path` (made if need be; a run already there is replaced). Returns it."""
        folder = Path(path)
        m = self.model
        about = {
            "format": FORMAT,
            "headstart": __version__,
            "model": {
                "name": m.name,
                "classes": list(m.classes),
                "named_classes": m.named_classes,
                "head": m.head if isinstance(m.head, str) else list(m.head),
                "preprocess": m.preprocess.as_dict(),
                "weights": m.weights,
                "auxiliary": bool(m.graph.auxiliary),
                "wrapped": spec_digest({"graph": m.graph.spec()}) if m.home is not None else None,
            },
            "mode": self.mode,
            "cut": self.cut,
            "backend": self.backend,
            "history": self.history.as_list(),
            "head_history": self.head_history.as_list(),
            "extraction": vars(self.extraction) if self.extraction else None,
            "seconds": self.seconds,
            "settings": dict(self.settings),
            "data": dict(self.data),
            "trained": self.trained,
            "validation": self.validation.as_dict() if self.validation else None,
        }
        metadata = {
            "format": "pt",
            "architecture": m.name,
            "preprocess": json.dumps(m.preprocess.as_dict()),
            **({"classes": json.dumps(list(m.classes))} if m.named_classes else {}),
        }
        tensors = published(m.graph, m.params, m.layouts[0])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_whole(folder / "weights.safetensors", [save_safetensors(tensors, metadata)])
            replace_whole(folder / "run.json", [(json.dumps(about, indent=1) + "\n").encode()])
        except OSError as error:
            raise SettingError(f"{folder}: the run cannot be written there ({error.strerror})") from error
        return folder


def data_facts(train: Dataset | FeatureSet, val: Dataset | FeatureSet | None) -> dict[str, Any]:
    """JSON-able: what was trained on."""
    return {
        "name": train.name,
        "train": len(train),
        "val": 0 if val is None else len(val),
        "classes": list(train.classes),
        "skipped": [list(line) for line in train.skipped] if isinstance(train, Dataset) else [],
    }


def load(path: str | Path, backend: str | None = None, model: Model | None = None) -> Run:
    """The run that `Run.save` wrote to the folder `path`, ready to predict, in any backend: `backend`, else
    HEADSTART_BACKEND, else the one that trained it if it is installed, else the only one installed.

    `model`: for a run of a wrapped model, whose code is in no file: what `hs.wrap` makes of the same module, with
    whatever weights. Raises WeightsError where the folder holds no complete run, or one of another model.
    """
    folder = Path(path)
    try:
        about = json.loads((folder / "run.json").read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{folder}: no run is saved there (run.json is missing)") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / 'run.json'}: cannot be read ({error})") from error
    try:
        if about["format"] != FORMAT:
            raise WeightsError(f"{folder}: saved in format {about['format']}, this headstart reads {FORMAT}")
        spec = about["model"]
        weights = folder / "weights.safetensors"
        model = _known(spec, weights) if spec.get("wrapped") is None else _wrapped(spec, weights, model)
        stats = about["extraction"]
        run = Run(
            model,
            about["mode"],
            about["cut"],
            about["backend"],
            History.from_list(about["history"]),
            History.from_list(about["head_history"]),
            ExtractionStats(**{**stats, "made_by": tuple(stats["made_by"])}) if stats else None,
            about["seconds"],
            about["settings"],
            # runs of before there were reports have none of these
            about.get("data", {}),
            about.get("trained"),
            Validation.from_dict(about["validation"]) if about.get("validation") else None,
        )
    except (KeyError, TypeError, AttributeError, SettingError) as error:
        raise WeightsError(f"{folder / 'run.json'}: not a saved run ({error!r})") from error
    if backend is None and not os.environ.get(backends.VARIABLE) and run.backend in backends.installed():
        return run
    return replace(run, backend=backends.choose(backend, model.home))


def _known(spec: Mapping[str, Any], weights: Path) -> Model:
    """The model of a saved run, by its architecture's name."""
    head = spec["head"] if isinstance(spec["head"], str) else tuple(spec["head"])
    arch = architecture(spec["name"])
    preprocess = Preprocess.from_dict(spec["preprocess"])
    graph = arch.graph(len(spec["classes"]), head, preprocess.size)
    if not spec["auxiliary"]:
        graph = graph.upto(graph.output)
    file = read_weights(weights)
    return Model(
        spec["name"],
        graph,
        fitted(file.source, file.params, graph, arch.layouts),
        preprocess,
        tuple(spec["classes"]),
        head,
        spec["weights"],
        frozenset(),
        spec["named_classes"],
    )


def _wrapped(spec: Mapping[str, Any], weights: Path, model: Model | None) -> Model:
    """The wrapped model of a saved run: `model` with the weights, classes and preprocessing that were saved."""
    if model is None or model.home is None:
        raise WeightsError(
            f"{weights.parent}: the run of a wrapped model, {spec['name']}, whose code is not saved; pass "
            "model=hs.wrap(...) of the same module, cut and head"
        )
    if spec_digest({"graph": model.graph.spec()}) != spec["wrapped"]:
        raise WeightsError(
            f"{weights.parent}: the run of another wrapped model than the one passed, {model.name}: its module, "
            f"cut, head or number of classes differs from what was saved ({spec['name']}, {len(spec['classes'])} "
            "classes)"
        )
    images = "arrays" not in spec["preprocess"]
    return replace(
        model,
        name=spec["name"],
        params=restored(model, weights),
        preprocess=(Preprocess if images else Arrays).from_dict(spec["preprocess"]),
        classes=tuple(spec["classes"]),
        weights=spec["weights"],
        fresh=frozenset(),
        named_classes=spec["named_classes"],
    )
