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
from functools import cached_property
from typing import Any

import numpy as np

from headstart.common.errors import ExportError, ExportMismatchError, HeadstartError
from headstart.common.text import raised_text, shortened
from headstart.contract.alike import ROUNDINGS
from headstart.data import Dataset
from headstart.data.annotations import MULTI, REGRESSION, SINGLE
from headstart.data.rows import each
from headstart.models.exporting.parts import HEAD, TRUNK, part_of, texts_of
from headstart.training.exporting.expected import Expected, expected_of, rows_of
from headstart.training.exporting.request import Opened, Request
from headstart.training.exporting.samples import Probes

BATCHES = {1: 7, 2: 14, 7: 63}
"""batch -> how many of the samples are run in such"""
TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2
"""the largest relative difference, in float32 and in float16"""
ERROR_LENGTH = 300
IDENTITY = ("model", "part", "cut", "dtype", "weights_digest", "trunk_digest")
"""the texts of which model a file is, and of which part"""


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
    expected = expected_of(request, probes.data, device, plain_only)
    for output, values in expected.outputs.items():
        if not np.isfinite(values).all():
            raise ExportError(
                f"{name}: cannot be verified: {output} of {request.model.name} are not finite on {probes.words}; "
                "its training has diverged, or its weights are damaged"
            )
    if set(opened.outputs) != expected.outputs.keys():
        raise _mismatch(name, f"gives {', '.join(opened.outputs)}; expected {', '.join(expected.outputs)}")
    trial = _Trial(opened, name, request, probes, expected)
    count = len(probes.data)
    differences, answers = dict.fromkeys(BATCHES, 0.0), np.empty_like(expected.outputs[expected.answer])
    for size, most in BATCHES.items():
        for positions in _batches(min(count, most), size):
            largest, answers[positions] = trial.batch(positions)
            differences[size] = max(differences[size], largest)
    measured = Verification(count, probes.words, differences, trial.tolerance, None)
    if request.part == TRUNK or request.model.task == REGRESSION:
        return measured
    return replace(measured, same=trial.same(answers))


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
    if texts := opened.texts:
        expected_texts = texts_of(
            model,
            request.part,
            part_of(model, request.part, request.cut),
            "float16" if request.half else "float32",
        )
        stated |= {key: (texts.get(key), expected_texts[key]) for key in IDENTITY if key in expected_texts}
    for what, (said, expected) in stated.items():
        if said != expected:
            raise _mismatch(
                name, f"says of its {what}: {shortened(str(said), 150)}; expected {shortened(str(expected), 150)}"
            )


@dataclass(frozen=True)
class _Trial:
    """An opened export beside what is expected of it."""

    opened: Opened
    name: str
    request: Request
    probes: Probes
    expected: Expected

    @cached_property
    def rows(self) -> Any:
        """All samples as the file says that it takes them."""
        if self.request.part == HEAD:
            return self.expected.features
        return rows_of(self.probes.data, self.opened.preprocess)

    @cached_property
    def tolerance(self) -> float:
        """The largest relative difference that is allowed. Compiled as another program, sums of a wrapped module's
        low precision are rounded at other places."""
        return HALF_TOLERANCE if self.request.half else max(TOLERANCE, ROUNDINGS * self.request.rounding)

    def batch(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Run these samples at once: the largest relative difference, and the output that answers are read from.
        ExportMismatchError where something differs by more than the tolerance."""
        size, largest = len(positions), 0.0
        made = self._run(positions)
        if missing := [output for output in self.expected.outputs if output not in made]:
            raise _mismatch(self.name, f"at batch {size} gives {', '.join(made)}, and not {', '.join(missing)}")
        for output, values in self.expected.outputs.items():
            received, expected = np.asarray(made[output]), values[positions]
            if received.shape != expected.shape:
                raise _mismatch(
                    self.name, f"at batch {size} gives {output} {received.shape}; expected {expected.shape}"
                )
            off = np.abs(received.astype(np.float64) - expected) / self.expected.scales[output]
            if not off.max() <= self.tolerance:  # NaN neither
                worst = np.nan_to_num(off, nan=np.inf).reshape(size, -1).max(1).argmax()
                raise self._differs(size, output, float(off.max()), int(positions[worst]))
            largest = max(largest, float(off.max()))
        return largest, np.asarray(made[self.expected.answer])

    def _run(self, positions: np.ndarray) -> Mapping[str, np.ndarray]:
        try:
            return self.opened.run(each(lambda array: array[positions], self.rows))
        except Exception as error:  # of somebody else's program, most likely
            raise _mismatch(self.name, f"at batch {len(positions)} cannot be run ({said_by(error)})") from error

    def _differs(self, size: int, output: str, off: float, sample: int) -> ExportMismatchError:
        data = self.probes.data
        worst = shortened(data.source_name(sample)) if isinstance(data, Dataset) else f"sample {sample}"
        mend = ", or float16 is not enough for this model: leave out half=True (--half)"
        return _mismatch(
            self.name,
            f"at batch {size} gives {output} that differ from the run's by {off:.2g}, relative, on "
            f"{self.probes.words} (most on {worst}), where {self.tolerance:g} is allowed"
            f"{mend if self.request.half else ''}",
        )

    def same(self, answers: np.ndarray) -> int:
        """How many samples get the same class, or labels, from what the file gives, logits or probabilities.
        ExportMismatchError where one gets another although the model is surer of its own than the error allowed is
        large."""
        expected = self.expected
        plain = expected.outputs[expected.plain]
        error = self.tolerance * float(np.max(expected.scales[expected.plain]))
        if self.request.model.task == SINGLE:
            ordered = np.sort(plain, axis=1)
            margin = ordered[:, -1] - ordered[:, -2] if plain.shape[1] > 1 else np.full(len(plain), np.inf)
            sure = margin > 2 * error
            same = answers.argmax(1) == plain.argmax(1)
        else:
            threshold = self.request.model.threshold
            logit = np.log(threshold / (1 - threshold))
            sure = (np.abs(plain - logit) > error).all(1)
            over = answers > (logit if expected.answer == expected.plain else threshold)
            same = (over == (plain > logit)).all(1)
        if wrong := int((sure & ~same).sum()):
            raise _mismatch(
                self.name, f"gives another answer than the run for {wrong} of {len(same)} {self.probes.words}"
            )
        return int(same.sum())


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Positions of samples in full batches; the last one begins again where they end."""
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count


def said_by(error: BaseException) -> str:
    """What an error says, of another program's as well, as one line."""
    if isinstance(error, HeadstartError):
        return shortened(" ".join(str(error).split()), ERROR_LENGTH)
    return raised_text(error, ERROR_LENGTH)


def _mismatch(name: str, what: str) -> ExportMismatchError:
    return ExportMismatchError(f"{name}: was not kept: what was written {what}")
