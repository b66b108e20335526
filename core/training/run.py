"""What `fit` returns: the trained model, what was recorded on the way, and the ways to take it with you.

How it is kept in a folder is in `headstart.training.saved`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.classes import aligned
from headstart.data.door import check_data_set
from headstart.data.summary import say
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.inference import unsound_node
from headstart.models import Model
from headstart.training.checks import check_labels, features_at, trained_classes
from headstart.training.history import History
from headstart.training.metrics import accuracy, cross_entropy, softmax
from headstart.training.prediction import predict, predict_features
from headstart.training.validation import Validation

if TYPE_CHECKING:
    from headstart.training.comparison import Comparison


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

    def __repr__(self) -> str:
        last = self.history[-1] if len(self.history) else None
        score = "" if last is None or last.val_accuracy is None else f", val_accuracy {last.val_accuracy:.4f}"
        cut = "" if self.cut is None else f", cut {self.cut!r}"
        epochs = len(self.head_history) + len(self.history)
        return (
            f"Run({self.model.name!r}, mode {self.mode!r}{cut}, backend {self.backend!r}: {epochs} epochs{score}, "
            f"{self.seconds:.1f} s)"
        )

    @cached_property
    def diverged(self) -> bool:
        """Whether its last loss or its parameters are not finite: it names no class then, and its accuracy says
        nothing."""
        last = self.history[-1:]
        losses = [loss for record in last for loss in (record.loss, record.val_loss) if loss is not None]
        return not np.isfinite(losses).all() or unsound_node((self.model.graph, self.model.params)) is not None

    @cached_property
    def native(self) -> Any:
        """The backend's own model, trunk and head joined, in inference mode: a torch.nn.Module that takes
        `(n, 3, h, w)`, a keras.Model or a flax.nnx.Module that take `(n, h, w, 3)`, preprocessed float32. Of a
        wrapped model, what the module itself takes, a dict of arrays as a dict."""
        return registry.load(self.backend).native(self.model.graph, self.model.params)

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 64,
        device: str = "auto",
        workers: int | None = None,
    ) -> np.ndarray:
        """float32 logits `(n, classes)`.

        `images`: whatever `hs.predict` takes: a data set, a path, a folder, a Pillow image, arrays, a list ...; or
        features of this model's trunk at the cut behind which it was trained: then no image is needed.
        Raises what `hs.predict` does, and SettingError for features of another trunk.
        """
        if isinstance(images, FeatureSet):
            here = features_at(self.model, images, self.cut or self.model.default_cut)
            return predict_features(
                self.model, here, here.cuts[0], backend=self.backend, batch_size=batch_size, device=device
            )
        return predict(
            self.model, images, backend=self.backend, batch_size=batch_size, device=device, workers=workers
        )

    def probabilities(self, images: Any, **settings: Any) -> np.ndarray:
        """float64 `(n, classes)`: the softmax of `predict`, which takes the same arguments."""
        return softmax(self.predict(images, **settings))

    def evaluate(self, data: Dataset | FeatureSet, **settings: Any) -> Evaluation:
        """Loss and accuracy on labelled samples, or on features of this model's trunk. `settings`: of `predict`.

        Labels are compared by the names of their classes, with the model's or, where it has none, with those that
        the run was trained on. Raises DataError for a class that is not among them, SettingError for what is
        neither data set nor features.
        """
        check_data_set(data, "data", (Dataset, FeatureSet))
        data = aligned(data, "the given data", trained_classes(self.model, self.data))
        check_labels(self.model, data, "given")
        say(data)
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
        """Write the run to the folder `path` (made if need be; a run already there is replaced, at once). Returns
        it. `hs.weights_file(path)` is the file there that torchvision's models load. SettingError where it cannot
        be written, or another process is saving there."""
        from headstart.training.saved import save

        return save(self, path)


def data_facts(train: Dataset | FeatureSet, val: Dataset | FeatureSet | None) -> dict[str, Any]:
    """JSON-able: what was trained on."""
    return {
        "name": train.name,
        "train": len(train),
        "val": 0 if val is None else len(val),
        "classes": list(train.classes),
        "named_classes": train.named_classes,
        "split": [part.as_dict() for part in train.splits],
        "skipped": [list(line) for line in train.skipped] if isinstance(train, Dataset) else [],
    }
