"""What `fit` returns: a run's record, with the ways to use the trained model and to take it with you. What these
need is imported where one is taken: most runs are looked at and saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.common.log import LOG
from headstart.common.text import extraction_line
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.data.classes import aligned
from headstart.data.copies import warn_of_seen
from headstart.data.door import as_data_set, check_data_set
from headstart.data.summary import say
from headstart.features.feature_set import FeatureSet
from headstart.training.checks import check_labels, features_at, tested_part, trained_classes, warn_of_augmented
from headstart.training.comparison import Comparison, comparison
from headstart.training.evaluation import Evaluation
from headstart.training.measured import measure
from headstart.training.metrics import softmax
from headstart.training.objective import objective_of_run
from headstart.training.run_record import RunRecord
from headstart.training.saving import save
from headstart.training.scores.multi import sigmoid
from headstart.training.scores.outcome import Outcome
from headstart.training.validation import validation_of

if TYPE_CHECKING:
    from headstart.training.exporting.export import Exported
    from headstart.training.predictions import Written


@dataclass(frozen=True, repr=False)
class Run(RunRecord):
    """A trained model, its record, and what can be done with it."""

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
        batch_size: int | str = 64,
        device: str = "auto",
        precision: str = "float32",
        workers: int | None = None,
        on_error: str = "raise",
    ) -> np.ndarray:
        """float32 logits `(n, classes)`, or numbers in their units `(n, targets)`; computed in
        float32 unless `precision` says otherwise, whatever it was trained in.

        `images`: whatever `hs.predict` takes: a data set, a path, a folder, a Pillow image, arrays, a list ...; or
        features of this model's trunk at the cut behind which it was trained: then no image is needed.
        `on_error="skip"`: rows of NaN for images that cannot be read.
        Raises what `hs.predict` does, and SettingError for features of another trunk.
        """
        from headstart.training.prediction import predict, predict_features

        settings: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": precision}
        if isinstance(images, FeatureSet):
            here = features_at(self.model, images, self.cut or self.model.default_cut)
            return predict_features(self.model, here, here.cuts[0], backend=self.backend, **settings)
        return predict(self.model, images, backend=self.backend, workers=workers, on_error=on_error, **settings)

    def write_predictions(self, images: Any, path: str | Path, *, top: int = 1, **settings: Any) -> Written:
        """Write the `top` likeliest classes of each image to a .csv, .tsv or .parquet file, a batch at a time, in
        bounded memory, in their order. `settings`: of `hs.write_predictions`, such as `on_error`."""
        from headstart.training.predictions import write_predictions

        return write_predictions(
            self.model, images, path, top=top, backend=self.backend, **{"cut": self.cut, **settings}
        )

    def probabilities(self, images: Any, **settings: Any) -> np.ndarray:
        """float64 `(n, classes)`: the softmax of `predict`, which takes the same arguments; of several labels a
        sample the probability of each by itself. SettingError for a run that predicts numbers."""
        if self.model.task == REGRESSION:
            raise SettingError("this run predicts numbers, which have no probabilities; run.predict gives them")
        return (sigmoid if self.model.task == MULTI else softmax)(self.predict(images, **settings))

    def evaluate(
        self,
        data: Dataset | FeatureSet,
        *,
        cached: bool = False,
        cache: str | Path | None = None,
        **settings: Any,
    ) -> Evaluation:
        """Loss, accuracy and scores on labelled samples, or on features of the trunk; of what came in parts, on
        the test part. `settings`: of `predict`.

        `cached`: on features, which are taken from the store and computed once where it lacks them, as in
        training: the next head on this trunk is evaluated without it. They are rounded to the dtype that this run
        was trained on. `cache`: the store's folder, see `hs.extract`.

        Labels are compared by the names of their classes, with the model's or, where it has none, with those that
        the run was trained on. DataWarning for samples that it was trained on, exact copies. Raises DataError for
        a class that is not among them and for parts without one to test on, SettingError for what is neither data
        set nor features.
        """
        if "on_error" in settings:
            raise SettingError("on_error goes where the data are opened: hs.data.folder(path, on_error=...)")
        if cache is not None and not cached:
            raise SettingError(f"cache={str(cache)!r} is where cached=True has features; pass it, too, or neither")
        trained, single = trained_classes(self.model, self.data), self.model.task == SINGLE
        known = trained.names if trained.named and single else None
        data = as_data_set(data, known, None if single else self.model.task)
        check_data_set(data, "data", (Dataset, FeatureSet))
        named = data = tested_part(data)
        if data.task != self.model.task:
            raise DataError(
                f"the labels of {data.name!r} are of the task {data.task!r}, and the run was trained for "
                f"{self.model.task!r}"
            )
        data = aligned(data, "the given data", trained)
        check_labels(self.model, data, "given")
        warn_of_augmented(data, "given data")
        say(data)
        given = self._features(data, cache, **settings) if cached and isinstance(data, Dataset) else data
        predictions = self.predict(given, **settings)
        seen = None if self.train_ids is None else self.train_ids.count(data.ids)
        warn_of_seen(named, seen or 0)
        objective = objective_of_run(self.model, self.settings)
        scale, targets = objective.scale, objective.targets(data)
        outputs = predictions if scale is None else scale.standardised(predictions)
        measured = measure(objective, outputs, targets, data)
        assert measured.loss is not None
        judged = (predictions, data, self.model.threshold, objective.deviation)
        validation = validation_of(*judged)
        name_of = data.source_name if isinstance(data, Dataset) else "sample {}".format
        return Evaluation(
            len(data),
            measured.loss,
            measured.accuracy,
            data.classes,
            validation,
            Outcome(*judged),
            tuple(name_of(miss.index) for miss in validation.misses),
            seen,
        )

    def _features(self, data: Dataset, cache: str | Path | None, **settings: Any) -> FeatureSet:
        """Of the trunk, where the head begins, from the store; `settings`: of `predict`."""
        from headstart.features.extract import extract
        from headstart.features.trunk_keys import DTYPES, INPUT

        trained_on = self.settings.get("feature_dtype")
        dtype = trained_on if trained_on in DTYPES else "float16"  # of a run that saw images, the usual
        cut = None if self.cut == INPUT else self.cut
        features = extract(self.model, data, cut, backend=self.backend, dtype=dtype, cache=cache, **settings)
        LOG.info("%s", extraction_line(features.stats))
        return features

    def report(self, path: str | Path) -> Path:
        """Write the run as one HTML file that needs no network; returns its path. SettingError where it cannot be
        written."""
        return self._comparison().report(path)

    def _repr_html_(self) -> str:
        return self._comparison()._repr_html_()

    def _comparison(self) -> Comparison:
        return comparison([self])

    def export(self, path: str | Path, data: Any = None, **settings: Any) -> Exported:
        """Write the model for other programs, by the path's suffix: .onnx, or .safetensors for weights alone. It
        is held to `predict` before it is there: on `data`, else on the validation data, where this run has them,
        else on random pictures. `settings`: of `hs.export`, such as `part="trunk"`, `half=True`, `replace=True`.
        Raises what it does."""
        from headstart.training.exporting.export import export

        return export(self, path, data, **settings)

    def save(self, path: str | Path) -> Path:
        """Write the run to the folder `path` (made if need be; a run already there is replaced, at once). Returns
        it. `hs.weights_file(path)` is the file there that torchvision's models load. SettingError where it cannot
        be written, or another process is saving there."""
        return save(self, path)
