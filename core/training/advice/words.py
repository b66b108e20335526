"""Advice in a sentence: what to train, by what evidence, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headstart.common.text import headline_text, nbytes_text, time_text
from headstart.data.annotations import SINGLE
from headstart.training.advice.result import Choice, TrunkFigures
from headstart.training.advice.rule import CUT, FULL, LINEAR, SCRATCH, STAGED

WHAT = {
    LINEAR: "the classifier of {trunk} on cached features",
    CUT: "{trunk} behind {cut}, on cached features",
    STAGED: "the classifier of {trunk} and then all of it (staged)",
    FULL: "all of {trunk} from its weights (full)",
    SCRATCH: "all of {trunk} from random weights (scratch)",
}
NAMES = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "mae": "mean absolute error",
    "standardised_mae": "standardised mean absolute error",
}
ROSE = 0.1
"""share of the error that the second half of the samples took away, from which a curve is said to rise"""
FAR = -0.25
"""the figure "earlier" (see `Evidence.figures`) from which data are said to be far from what a trunk was trained
on"""
AS_GOOD, DECISIVE = 0.47, 0.05
"""likelihoods that the next is better: above the one it is as good; below the other it is
settled"""


def sentence(
    best: Choice,
    runner_up: Choice | None,
    likelihood: float | None,
    trunk: TrunkFigures,
    headline: str,
    task: str,
) -> str:
    """`likelihood`: that the runner-up comes out better."""

    def text(value: float) -> str:
        return headline_text(headline, value)

    last, evidence = trunk.last, trunk.evidence
    ends = "" if last.interval is None else f" (95 %: {' to '.join(map(text, last.interval))})"
    known = [f"its linear head has {text(last.score)}{ends} on held-out samples"]
    rise = 1 - evidence.error / max(evidence.half_error, 1e-9)
    half, whole = (text(score) for _, score in last.curve[-2:])
    if rise >= ROSE:
        known.append(f"more samples still help ({half} of half of them, {whole} of all)")
    else:
        known.append(f"more samples hardly help it ({half} of half of them, {whole} of all)")
    if evidence.figures()["earlier"] <= FAR:
        earlier = min(trunk.cuts[:-1], key=lambda cut: cut.error)
        known.append(
            f"its features at {earlier.cut} do better, {text(earlier.score)}, so the data lie far from its own"
        )
    elif trunk.familiarity is not None:
        its = trunk.familiarity
        sure = "sure" if its.confidence >= 0.5 else "not sure"
        known.append(
            f"its classifier, of {its.classes:,} classes, is {sure} of them ({its.confidence:.0%} for the "
            "likeliest)"
        )
    samples = f"{evidence.samples:,} samples"
    if task == SINGLE:
        samples += f", {evidence.samples / max(evidence.classes, 1):.0f} a class"
    what = WHAT[best.what].format(trunk=best.trunk, cut=best.cut)
    expected = f"{text(best.score)} (68 %: {' to '.join(map(text, best.interval))})"
    line = (
        f"train {what}: {NAMES[headline]} of about {expected} in "
        f"{time_text(best.seconds)}, since of {samples}, {', '.join(known)}"
    )
    if runner_up is None or likelihood is None:
        return f"{line}; nothing else was within the budget to compare with"
    other = WHAT[runner_up.what].format(trunk=runner_up.trunk, cut=runner_up.cut)
    takes = f"{text(runner_up.score)} in {time_text(runner_up.seconds)}"
    if likelihood > AS_GOOD:
        return f"{line}; {other} ({takes}) may do as well"
    if likelihood < DECISIVE:
        return f"{line}; next would be {other} ({takes}), and that it is better is unlikely ({likelihood:.0%})"
    return f"{line}; in doubt, {other} ({takes}) is better in about {likelihood:.0%} of such cases"


def names_of_budget(budget: Mapping[str, float | int | None]) -> str:
    """A budget for people."""
    parts: Sequence[str] = [
        *([time_text(budget["seconds"])] if budget.get("seconds") is not None else []),  # type: ignore[arg-type]
        *([nbytes_text(budget["nbytes"])] if budget.get("nbytes") is not None else []),  # type: ignore[arg-type]
    ]
    return " and ".join(parts)
