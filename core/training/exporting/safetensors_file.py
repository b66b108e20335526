"""The format of weights alone, as `Run.save` writes them: by torchvision's or timm's names, for whoever has the
architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.files import replace_whole
from headstart.contract import registry
from headstart.data.annotations import SINGLE
from headstart.features.inference import pixel_trunk
from headstart.models import architecture
from headstart.models.exporting.parts import NOT_VERIFIED, OUTPUTS
from headstart.models.layouts import fitted
from headstart.models.weights import read_weights
from headstart.models.wrapped import restored
from headstart.training.exporting.request import VERIFIED, Request
from headstart.training.saving import weights_chunks


def write(request: Request, path: Path) -> None:
    note(request, path, NOT_VERIFIED)


def note(request: Request, path: Path, said: str) -> None:
    """Write what verification has said into the file: a header cannot grow, so all of it is written again."""
    replace_whole(path, weights_chunks(request.model, {VERIFIED: said}))


class WeightsOf:
    """The request's model with the weights that the file holds, run by its own backend."""

    def __init__(self, path: Path, request: Request) -> None:
        """WeightsError where the file does not hold exactly this model's."""
        model = request.model
        if model.home is not None:
            self._model = replace(model, params=restored(model, path))
        else:
            file = read_weights(path)
            self._model = replace(
                model,
                params=fitted(file.source, file.params, model.graph, architecture(model.name).layouts),
                preprocess=file.preprocess or model.preprocess,
                classes=file.classes or model.classes,
                **{"task": SINGLE, **file.means},
            )
        self.preprocess, self.classes = self._model.preprocess, self._model.classes
        self.task, self.threshold = self._model.task, self._model.threshold
        self.outputs = (OUTPUTS[self.task].plain,)
        self.texts: Mapping[str, str] = {}

        loaded = registry.load(request.backend, model.home)
        self._output, self._numpy = self._model.graph.output, loaded.numpy
        self._trunk = pixel_trunk(self._model, [self._output], loaded, loaded.place("cpu", "float32"))

    def run(self, rows: Any) -> Mapping[str, np.ndarray]:
        return {self.outputs[0]: self._numpy(self._trunk.run(rows)[self._output]).astype(np.float32, copy=False)}
