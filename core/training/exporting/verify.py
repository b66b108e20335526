"""The proof of an export: what was written is opened by what will run it, and must give what the run gives.

* The run is asked as its users ask it, with photographs, and the file gets what the preprocessing that it names
  makes of them. So preprocessing that stayed behind is found like a wrong kernel is.
* It is run at batches of 1, 2 and 7: a batch that is built in, or an average over it, shows in one of them.
* Differences are measured in how far the run's outputs vary from sample to sample, where that is less than they
  are: a network whose outputs are all nearly alike computes little that could be told from a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.common.errors import ExportError, ExportMismatchError, HeadstartError
from headstart.common.text import shortened
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.data.loader import batches
from headstart.data.rows import window
from headstart.features.feature_set import FeatureSet
from headstart.features.inference import pixel_trunk
from headstart.models.exporting.onnx_model import FEATURES, HEAD, OUTPUTS, TRUNK
from headstart.training.checks import features_at
from headstart.training.exporting.request import Opened, Request
from headstart.training.exporting.samples import Probes
from headstart.training.metrics import softmax
from headstart.training.prediction import predict, predict_features
from headstart.training.scores.multi import sigmoid

BATCHES = {1: 7, 2: 14, 7: 63}
"""batch -> how many of the samples are run in such"""
TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2
"""the largest relative difference, in float32 and in float16"""
LEAST_VARIED, LEAST_VARIED_NUMBERS = 0.1, 0.01
"""of the largest output: outputs that vary less are not told apart from rounding as finely. Numbers in their units
may be large by their origin alone, as years are, which the last bias adds and nothing before it has rounded by"""
ERROR_LENGTH = 300


@dataclass(frozen=True)
class Verification:
    """An export beside the run it came from."""

    samples: int
    of: str
    """what these are, such as "validation samples" """
    differences: Mapping[int, float]
    """batch -> the largest relative difference of any output"""
    tolerance: float
    same: int | None
    """samples of which it says the same class, or the same labels; None where it says neither"""

    @property
    def largest(self) -> float:
        return max(self.differences.values())

    def line(self) -> str:
        """For people."""
        by_batch = ", ".join(f"{value:.1e}" for value in self.differences.values())
        same = "" if self.same is None else f"; {self.same} of {self.samples} answers the same"
        return (
            f"largest relative difference {by_batch} at batch {', '.join(map(str, self.differences))}, "
            f"on {self.samples} {self.of}{same}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "differences": {str(size): value for size, value in self.differences.items()}}

    def for_file(self) -> dict[str, Any]:
        """What the file's metadata say of it. No digits that would differ between two frameworks that compute the
        same, so that a run gives the same file whichever it is of: the difference is told as the power of ten
        below which it is, 0.0001 or more."""
        below = next(bound for bound in (1e-4, 1e-3, 1e-2, 1e-1) if self.largest <= bound)
        return {
            "samples": self.samples,
            "of": self.of,
            "batches": list(self.differences),
            "difference_below": below,
            "tolerance": self.tolerance,
            "same_answers": self.same,
        }


def held_to_the_model(
    opened: Opened, name: str, request: Request, probes: Probes, device: str, plain_only: bool = False
) -> Verification:
    """Hold an opened export to the model. `name`: what errors call it. `device`: where the model itself runs.
    `plain_only`: it gives the graph's own outputs, and no probabilities.

    Raises ExportMismatchError where it says of itself what the model does not, cannot be run, or differs by more
    than the tolerance; ExportError where the model's outputs are not finite; and what reading the samples raises.
    """
    check_description(opened, name, request)
    features, reference = _reference(request, probes, device)
    for output, values in reference.items():
        if not np.isfinite(values).all():
            raise ExportError(
                f"{name}: cannot be verified: {output} of {request.model.name} are not finite on {probes.words}; "
                "its training has diverged, or its weights are damaged"
            )
    plain = next(iter(reference))
    if plain_only:
        reference = {plain: reference[plain]}
    if set(opened.outputs) != reference.keys():
        raise _mismatch(name, f"gives {', '.join(opened.outputs)}; expected {', '.join(reference)}")
    answer = next(reversed(reference))
    rows = features if request.part == HEAD else _rows(probes.data, opened.preprocess)
    tolerance = HALF_TOLERANCE if request.half else TOLERANCE
    scales = {output: _scale(values, output, request) for output, values in reference.items()}
    differences = dict.fromkeys(BATCHES, 0.0)
    count = len(probes.data)
    answers = np.empty_like(reference[answer])
    for size, most in BATCHES.items():
        for positions in _batches(min(count, most), size):
            made = _run(opened, name, rows, positions, size)
            for output in opened.outputs:
                expected, received = reference[output][positions], np.asarray(made[output])
                if received.shape != expected.shape:
                    raise _mismatch(
                        name, f"at batch {size} gives {output} {received.shape}; expected {expected.shape}"
                    )
                off = np.abs(received.astype(np.float64) - expected) / scales[output]
                if not off.max() <= tolerance:  # NaN neither
                    sample = positions[np.nan_to_num(off, nan=np.inf).reshape(size, -1).max(1).argmax()]
                    raise _differs(name, request, probes, size, output, float(off.max()), tolerance, int(sample))
                differences[size] = max(differences[size], float(off.max()))
            answers[positions] = made[answer]
    measured = Verification(count, probes.words, differences, tolerance, None)
    if request.part == TRUNK or request.model.task == REGRESSION:
        return measured
    error = tolerance * float(np.max(scales[plain]))
    return _with_answers(measured, name, request, answers, answer == plain, reference[plain], error)


def check_description(opened: Opened, name: str, request: Request) -> None:
    """ExportMismatchError unless what the file says of itself is what the model is."""
    model = request.model
    stated: dict[str, tuple[Any, Any]] = {
        "task": (opened.task, model.task),
        "classes": (tuple(opened.classes), tuple(model.classes)),
    }
    if model.task == MULTI:
        stated["threshold"] = (opened.threshold, model.threshold)
    if request.part != HEAD:
        stated["preprocessing"] = (opened.preprocess, model.preprocess)
    for what, (said, expected) in stated.items():
        if said != expected:
            raise _mismatch(
                name, f"says of its {what}: {shortened(str(said), 150)}; expected {shortened(str(expected), 150)}"
            )


def _reference(request: Request, probes: Probes, device: str) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """The features at the cut, where a part is exported, and what the model gives for the samples, by the names of
    outputs; the first is what the graph itself ends in."""
    model, backend = request.model, request.backend
    features = None
    if request.part in (TRUNK, HEAD):
        features = _features(request, probes.data, device)
    if request.part == TRUNK:
        assert features is not None
        return features, {FEATURES: features}
    if isinstance(probes.data, FeatureSet):
        here = features_at(model, probes.data, request.cut)
        plain = predict_features(model, here, here.cuts[0], backend=backend, device=device)
    else:
        plain = predict(model, probes.data, backend=backend, device=device)
    outputs = OUTPUTS[model.task]
    reference = {outputs.plain: plain}
    if outputs.probable is not None:
        reference[outputs.probable] = (sigmoid if model.task == MULTI else softmax)(plain)
    return features, reference


def _features(request: Request, data: Dataset | FeatureSet, device: str) -> np.ndarray:
    """float32, channels last, of all samples."""
    if isinstance(data, FeatureSet):
        here = features_at(request.model, data, request.cut)
        return np.asarray(here.numpy(here.cuts[0]), np.float32)
    loaded = registry.load(request.backend, request.model.home)
    trunk = pixel_trunk(request.model, [request.cut], loaded, loaded.place(device, "float32"))
    rows, size = _rows(data, request.model.preprocess), 7
    parts = [trunk.run(window(rows, start, start + size)) for start in range(0, len(data), size)]
    return np.concatenate([loaded.numpy(part[request.cut]) for part in parts]).astype(np.float32, copy=False)


def _rows(data: Any, preprocess: Any) -> Any:
    """All samples of a data set as a model with this preprocessing takes them."""
    (batch,) = batches(data, preprocess, np.arange(len(data)), len(data))
    return batch.images


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Positions of samples in full batches; the last one begins again where they end."""
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count


def _run(opened: Opened, name: str, rows: Any, positions: np.ndarray, size: int) -> Mapping[str, np.ndarray]:
    taken = {key: rows[key][positions] for key in rows} if isinstance(rows, dict) else rows[positions]
    try:
        return opened.run(taken)
    except Exception as error:  # of somebody else's program, most likely
        raise _mismatch(name, f"at batch {size} cannot be run ({said_by(error)})") from error


def said_by(error: BaseException) -> str:
    """What an error says, of another program's as well, as one line."""
    kind = "" if isinstance(error, HeadstartError) else f"{type(error).__name__}: "
    return shortened(" ".join(f"{kind}{error}".split()), ERROR_LENGTH)


def _scale(reference: np.ndarray, output: str, request: Request) -> Any:
    """What a difference is relative to: one number, or one a target."""
    task = request.model.task
    if request.part != TRUNK and output != OUTPUTS[task].plain:
        return np.float64(1)  # probabilities
    axes = 0 if task == REGRESSION and request.part != TRUNK else None
    largest = np.abs(reference).max(axes)
    varied = np.abs(reference - reference.mean(0, dtype=np.float64)).max(axes)
    if request.half and task != REGRESSION:
        varied = largest  # eleven bits: what varies little is lost in them
    least = LEAST_VARIED_NUMBERS if task == REGRESSION else LEAST_VARIED
    return np.maximum(np.clip(varied, least * largest, largest), np.finfo(np.float32).tiny)  # all may be 0


def _with_answers(
    measured: Verification,
    name: str,
    request: Request,
    answers: np.ndarray,
    is_logits: bool,
    reference: np.ndarray,
    error: float,
) -> Verification:
    """With how many samples get the same class, or labels. ExportMismatchError where one gets another although the
    run is surer of its own than the error allowed is large.

    `answers`: what the file gives, logits or probabilities; `reference`: the model's logits; `error`: of these."""
    if request.model.task == SINGLE:
        ordered = np.sort(reference, axis=1)
        sure = (
            ordered[:, -1] - ordered[:, -2] > 2 * error
            if reference.shape[1] > 1
            else np.ones(len(reference), bool)
        )
        same = answers.argmax(1) == reference.argmax(1)
    else:
        threshold = request.model.threshold
        at = np.log(threshold / (1 - threshold))
        sure = (np.abs(reference - at) > error).all(1)
        same = ((answers > (at if is_logits else threshold)) == (reference > at)).all(1)
    if (wrong := np.flatnonzero(sure & ~same)).size:
        raise _mismatch(name, f"gives another answer than the run for {wrong.size} of {len(same)} {measured.of}")
    return replace(measured, same=int(same.sum()))


def _differs(
    name: str,
    request: Request,
    probes: Probes,
    size: int,
    output: str,
    off: float,
    tolerance: float,
    sample: int,
) -> ExportMismatchError:
    worst = probes.data.source_name(sample) if isinstance(probes.data, Dataset) else f"sample {sample}"
    mend = ", or float16 is not enough for this model: leave out half=True (--half)" if request.half else ""
    return _mismatch(
        name,
        f"at batch {size} gives {output} that differ from the run's by {off:.2g}, relative, on {probes.words} "
        f"(most on {shortened(worst)}), where {tolerance:g} is allowed{mend}",
    )


def _mismatch(name: str, what: str) -> ExportMismatchError:
    return ExportMismatchError(f"{name}: was not kept: what was written {what}")
