"""What a training is, as plain data: what must be the same for it to go on.

Invariant: of two trainings with equal terms every step is the same, on the same machine; so what one has done the
other can go on from. What changes nothing of that (threads, folders, who watches) is no term.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from headstart.common.errors import SettingError
from headstart.common.outputs import json_text
from headstart.contract.optimizers import SGD, AdamW, Schedule, as_dict
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.features.feature_set import FeatureSet
from headstart.store.keys import params_digest, spec_digest
from headstart.training.checks import cut_in
from headstart.training.job import TrainingJob
from headstart.training.options import OPTIONS

FREE = (
    *("backend", "device", "workers", "engine", "cache", "memory", "push", "extraction_batch"),
    *("on_epoch", "tensorboard", "profile", "debug_nans", "checkpoint", "resume"),
)
"""options that a training may go on with another value of, or whose meaning stands in another term"""

Terms = Mapping[str, Any]


def terms_of(job: TrainingJob) -> Terms:
    """Each term by what the user calls it. JSON-able, and as it comes back from JSON."""
    model = job.model
    terms = {
        "backend": job.backend.name,
        "device": job.place.device,
        **{f"{name}=": _plain(getattr(job.settings, name)) for name in OPTIONS if name not in FREE},
        "cut=": job.cut or job.settings.cut,
        "the model": model.name,
        "the model's classes": list(model.classes),
        "the model's graph": spec_digest({"graph": model.graph.spec()}),
        "the model's preprocessing": spec_digest(model.preprocess.as_dict()),
        "the model's weights at the start": params_digest(model.params),
        **dict(_data_terms("training", job.train, job)),
        **({} if job.val is None else dict(_data_terms("validation", job.val, job))),
    }
    result: Terms = json.loads(json_text(terms))
    return result


def _data_terms(part: str, data: Dataset | FeatureSet, job: TrainingJob) -> Iterator[tuple[str, Any]]:
    """In this order the first difference says most."""
    yield f"the number of {part} samples", len(data)
    yield f"the classes of the {part} data", list(data.classes)
    yield f"the {part} samples (digest of their ids)", blake3("".join(data.ids).encode()).hexdigest(length=16)
    yield f"the labels of the {part} samples (digest)", _digest(data.labels)
    yield f"the weights of the {part} samples (digest)", None if data.weights is None else _digest(data.weights)
    if isinstance(data, FeatureSet) and (made := _made_otherwise(data, job)) is not None:
        yield f"the {part} features' own precision, dtype and views", made


def _made_otherwise(data: FeatureSet, job: TrainingJob) -> list[dict[str, Any]] | None:
    """How features that are trained on in place of pictures were made, a dict a view; None where that is as the
    job's options have it, which are terms by themselves."""
    assert job.cut is not None
    cut, s = cut_in(data, job.model, job.cut), job.settings
    specs = [data.key(cut, view).spec for view in range(data.views)]
    made = [{name: spec[name] for name in ("precision", "dtype", "views")} for spec in specs]
    return None if made == [{"precision": s.precision, "dtype": s.dtype, "views": None}] else made


def _digest(array: np.ndarray) -> str:
    return blake3(np.ascontiguousarray(array).tobytes()).hexdigest(length=16)


def _plain(value: Any) -> Any:
    if isinstance(value, SGD | AdamW):
        return as_dict(value)
    if isinstance(value, Schedule):
        return dict(vars(value))
    if isinstance(value, Augment):
        return value.as_dict()
    return str(value) if isinstance(value, Path) else value


def digest_of(terms: Terms) -> str:
    """By which a training's files know that they belong together."""
    return spec_digest(dict(terms))


def check_terms(folder: Path, before: Terms, now: Terms) -> None:
    """SettingError, which names the first term that differs."""
    for name in dict.fromkeys((*now, *before)):
        if before.get(name) != now.get(name):
            stands = name if name.endswith("=") else f"{name} "
            raise SettingError(
                f"resume={str(folder)!r}: that training began with {stands}{_said(before, name)}, and here it is "
                f"{_said(now, name)}; a training goes on with all that it began with. To train otherwise, begin "
                "anew: checkpoint= and another folder"
            )


def _said(terms: Terms, name: str) -> str:
    text = repr(terms[name]) if name in terms else "none"
    return text if len(text) <= 80 else f"{text[:77]}..."
