"""headstart: transfer learning that computes a frozen trunk's features once.

Importing it imports no framework, writes nothing and sets no global flag; names are loaded on first use, so
that `headstart --help` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart import cache, data, errors, report
    from headstart.common.errors import HeadstartError
    from headstart.common.version import __version__ as __version__
    from headstart.contract.optimizers import SGD, AdamW, Schedule
    from headstart.data.augment import Augment
    from headstart.data.preprocess import Preprocess
    from headstart.features.engines.settings import Ray
    from headstart.features.extract import extract
    from headstart.features.inference import forward, native
    from headstart.features.loading import load_features
    from headstart.features.near_duplicates import near_duplicates
    from headstart.features.recompute import verify
    from headstart.models.listing import list_models
    from headstart.models.model import model
    from headstart.models.wrapped import wrap
    from headstart.training.advise import advise
    from headstart.training.compare import compare
    from headstart.training.compare_modes import compare_modes
    from headstart.training.comparison import Comparison, comparison
    from headstart.training.evaluate import evaluate
    from headstart.training.exporting.export import export
    from headstart.training.exporting.exported import OnnxModel
    from headstart.training.fit import fit
    from headstart.training.plan import plan
    from headstart.training.prediction import predict
    from headstart.training.predictions import write_predictions
    from headstart.training.run import Run
    from headstart.training.saved import load, weights_file
    from headstart.training.sweep import sweep

_WHERE = {
    "__version__": ("headstart.common.version", "__version__"),
    "cache": ("headstart.cache", None),
    "data": ("headstart.data", None),
    "Augment": ("headstart.data.augment", "Augment"),
    "Preprocess": ("headstart.data.preprocess", "Preprocess"),
    "errors": ("headstart.errors", None),
    "HeadstartError": ("headstart.common.errors", "HeadstartError"),
    "Comparison": ("headstart.training.comparison", "Comparison"),
    "advise": ("headstart.training.advise", "advise"),
    "compare": ("headstart.training.compare", "compare"),
    "compare_modes": ("headstart.training.compare_modes", "compare_modes"),
    "comparison": ("headstart.training.comparison", "comparison"),
    "evaluate": ("headstart.training.evaluate", "evaluate"),
    "export": ("headstart.training.exporting.export", "export"),
    "extract": ("headstart.features.extract", "extract"),
    "list_models": ("headstart.models.listing", "list_models"),
    "load_features": ("headstart.features.loading", "load_features"),
    "forward": ("headstart.features.inference", "forward"),
    "model": ("headstart.models.model", "model"),
    "native": ("headstart.features.inference", "native"),
    "near_duplicates": ("headstart.features.near_duplicates", "near_duplicates"),
    "plan": ("headstart.training.plan", "plan"),
    "predict": ("headstart.training.prediction", "predict"),
    "fit": ("headstart.training.fit", "fit"),
    "OnnxModel": ("headstart.training.exporting.exported", "OnnxModel"),
    "SGD": ("headstart.contract.optimizers", "SGD"),
    "AdamW": ("headstart.contract.optimizers", "AdamW"),
    "Ray": ("headstart.features.engines.settings", "Ray"),
    "Run": ("headstart.training.run", "Run"),
    "Schedule": ("headstart.contract.optimizers", "Schedule"),
    "report": ("headstart.report", None),
    "load": ("headstart.training.saved", "load"),
    "sweep": ("headstart.training.sweep", "sweep"),
    "weights_file": ("headstart.training.saved", "weights_file"),
    "verify": ("headstart.features.recompute", "verify"),
    "write_predictions": ("headstart.training.predictions", "write_predictions"),
    "wrap": ("headstart.models.wrapped", "wrap"),
}

__all__ = [
    "SGD",
    "AdamW",
    "Augment",
    "Comparison",
    "HeadstartError",
    "OnnxModel",
    "Preprocess",
    "Ray",
    "Run",
    "Schedule",
    "advise",
    "cache",
    "compare",
    "compare_modes",
    "comparison",
    "data",
    "errors",
    "evaluate",
    "export",
    "extract",
    "fit",
    "forward",
    "list_models",
    "load",
    "load_features",
    "model",
    "native",
    "near_duplicates",
    "plan",
    "predict",
    "report",
    "sweep",
    "verify",
    "weights_file",
    "wrap",
    "write_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
