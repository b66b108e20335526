"""Advice held to what happened: what a rule would have advised in each finished case, and what that cost.

The rule's coefficients are fitted to the cases of all other data sets, of whatever size, so that no case is judged
by a rule that has seen its data. Beside it are fixed rules, such as "always linear" and "always full", and LogME's
choice.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from advising import MODES, TRUNKS, Outcomes, Set, data_of, tuned

import headstart as hs
from headstart.training.advice.candidates import candidates
from headstart.training.advice.looking import look_at
from headstart.training.advice.measuring import folds_for
from headstart.training.advice.rule import EQUAL, FLOOR, Evidence, predicted_errors
from headstart.training.sample_texts import bits_of
from headstart.training.scores.resampling import paired_difference

FIGURES = ("constant", "samples", "earlier", "slope", "random")
SHRUNK = {"constant": 0.1, "samples": 1.0, "earlier": 1.0, "slope": 1.0, "random": 1.0}
"""penalties of their coefficients: cases are few"""
NEAR = 0.01
"""of a score: what counts as good as the best"""


def look(root: Path, sets: Sequence[Set], outcomes: Outcomes) -> None:
    """Add what the features of each case tell to the file of outcomes."""
    for of in sets:
        cases = {trunk: f"{of.key} {trunk}" for trunk in TRUNKS}
        missing = [t for t, case in cases.items() if "advice" not in outcomes.cases.get(case, {"advice": None})]
        if not missing or (data := data_of(root, of)) is None:
            continue
        train = data[0]
        folds = folds_for(train, 0)
        for trunk in missing:
            architecture, weights, _ = TRUNKS[trunk]
            model = hs.model(architecture, weights=weights, classes=train.classes, size=of.pixels)
            (candidate,) = candidates([model], None, train.classes)
            with tempfile.TemporaryDirectory() as cache:
                where = {"backend": "torch", "device": "cpu", "precision": "float32", "dtype": "float32"}
                more = {"batch_size": 64, "workers": None, "cache": cache}
                figures, _ = look_at(candidate, train, folds, len(train), {**where, **more}, 0)
            told = {"evidence": asdict(figures.evidence), "cuts": [cut.as_dict() for cut in figures.cuts]}
            outcomes.add(cases[trunk], "advice", told)


@dataclass(frozen=True)
class Case:
    """A finished case."""

    name: str
    evidence: Evidence
    scores: Mapping[str, float]
    """mode -> accuracy, of tuned rates"""
    seconds: Mapping[str, float]
    right: Mapping[str, np.ndarray]
    """mode -> which of the held-out samples it got right, of its best setting"""
    logme: Sequence[float]
    """at each cut, the classifier's last"""

    @property
    def data(self) -> str:
        return self.name.split("-")[0]

    @property
    def best(self) -> str:
        return max(self.scores, key=lambda mode: self.scores[mode])


def finished(outcomes: Outcomes) -> list[Case]:
    cases = []
    for name, known in outcomes.cases.items():
        if "advice" not in known or not all(mode in known for mode in MODES[:4]):
            continue
        samples = known["samples"]["tested"]
        modes = [mode for mode in MODES if mode in known]
        of = {mode: tuned(known[mode], samples) for mode in modes}
        best = {mode: max(known[mode], key=lambda trial: trial["accuracy"])["right"] for mode in modes}
        cases.append(
            Case(
                name,
                Evidence(**known["advice"]["evidence"]),
                {mode: score for mode, (score, _) in of.items()},
                {mode: seconds for mode, (_, seconds) in of.items()},
                {mode: bits_of(text, samples) for mode, text in best.items()},
                [cut["logme"] for cut in known["advice"]["cuts"]],
            )
        )
    return cases


@dataclass(frozen=True)
class Fit:
    """What `rule.predicted_errors` takes."""

    coefficients: Mapping[str, Mapping[str, float]]
    """mode -> of each figure"""
    spread: Mapping[str, float]
    """mode -> one standard deviation of what they leave unexplained"""

    def errors(self, case: Case) -> dict[str, float]:
        return predicted_errors(case.evidence, self.coefficients, self.spread)


def fitted(cases: Sequence[Case]) -> Fit:
    """By ridge regression of the logarithm of each mode's error over the linear head's."""
    coefficients, spread = {}, {}
    for mode in MODES[1:]:
        of = [case for case in cases if mode in case.scores]
        if len(of) <= len(FIGURES):
            continue
        x = np.array([[case.evidence.figures()[name] for name in FIGURES] for case in of])
        y = np.array([gain(case, mode) for case in of])
        penalty = np.diag([SHRUNK[name] for name in FIGURES])
        solution = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        coefficients[mode] = dict(zip(FIGURES, map(float, solution), strict=True))
        spread[mode] = math.sqrt(float(((y - x @ solution) ** 2).sum()) / (len(of) - len(FIGURES)))
    return Fit(coefficients, spread)


def gain(case: Case, mode: str) -> float:
    return math.log(max(1 - case.scores[mode], FLOOR) / max(1 - case.scores["linear"], FLOOR))


def picked(case: Case, errors: Mapping[str, float]) -> str:
    """As `rule.advised`, by the seconds that the modes really took."""
    known = {mode: error for mode, error in errors.items() if mode in case.scores}
    least = min(known.values())
    return min((m for m in known if known[m] <= least + EQUAL), key=lambda m: case.seconds[m])


@dataclass(frozen=True)
class Judged:
    """What one way of choosing came to over all cases."""

    name: str
    modes: Mapping[str, str]
    """case -> mode"""
    regret: float
    """mean over cases of the best mode's score less the chosen one's"""
    near: float
    """share of cases within `NEAR` of the best"""
    same: float
    """share of cases in which the held-out samples do not tell the two apart"""


def judged(cases: Sequence[Case]) -> tuple[list[Judged], dict[str, float]]:
    """Each way of choosing, and mode -> by how much the logarithm of its predicted error was off."""
    advice, off = {}, {mode: [] for mode in MODES}
    for data in sorted({case.data for case in cases}):
        fit = fitted([case for case in cases if case.data != data])
        for case in (case for case in cases if case.data == data):
            errors = fit.errors(case)
            advice[case.name] = picked(case, errors)
            for mode, score in case.scores.items():
                if mode in errors:
                    off[mode].append(math.log(max(1 - score, FLOOR) / errors[mode]))
    by_logme = {case.name: "linear" if case.logme[-1] >= max(case.logme[:-1]) else "cut" for case in cases}
    ways = {
        "advice": advice,
        "always linear": {case.name: "linear" for case in cases},
        "always from a cut": {case.name: "cut" for case in cases},
        "always staged": {case.name: "staged" for case in cases},
        "always full": {case.name: "full" for case in cases},
        "LogME's cut": by_logme,
    }
    spread = {mode: float(np.sqrt(np.mean(np.square(of)))) for mode, of in off.items() if of}
    return [_judge(name, modes, cases) for name, modes in ways.items()], spread


def _judge(name: str, modes: Mapping[str, str], cases: Sequence[Case]) -> Judged:
    regrets = [case.scores[case.best] - case.scores[modes[case.name]] for case in cases]
    same = [
        modes[case.name] == case.best
        or paired_difference(case.right[modes[case.name]], case.right[case.best]).is_noise
        for case in cases
    ]
    near = [regret <= NEAR + 1e-9 for regret in regrets]
    return Judged(name, modes, float(np.mean(regrets)), float(np.mean(near)), float(np.mean(same)))


def trunk_choices(cases: Sequence[Case]) -> list[str]:
    """Of each data set and size with all trunks: the best of all trunks and modes, what advice takes, and LogME
    with a linear head. Lines of a table in Markdown."""
    lines = ["| data | best | advice | LogME, linear |", "|---|---|---|---|"]
    sets: dict[str, list[Case]] = {}
    for case in cases:
        sets.setdefault(case.name.split()[0], []).append(case)
    regrets: dict[str, list[float]] = {"advice": [], "LogME": []}
    for name, of in sets.items():
        if len(of) < len(TRUNKS):
            continue
        fit = fitted([case for case in cases if case.data != of[0].data])
        options = [
            (error, case, mode) for case in of for mode, error in fit.errors(case).items() if mode in case.scores
        ]
        least = min(error for error, _, _ in options)
        near = [(case.seconds[mode], case, mode) for error, case, mode in options if error <= least + EQUAL]
        _, taken, how = min(near, key=lambda option: option[0])
        best = max(of, key=lambda case: case.scores[case.best])
        likely = max(of, key=lambda case: case.logme[-1])
        top = best.scores[best.best]
        regrets["advice"].append(top - taken.scores[how])
        regrets["LogME"].append(top - likely.scores["linear"])
        cells = [(best, best.best), (taken, how), (likely, "linear")]
        words = [f"{case.name.split()[1]} {mode} {case.scores[mode]:.1%}" for case, mode in cells]
        lines.append(f"| {name} | {' | '.join(words)} |")
    if regrets["advice"]:
        mean = {way: 100 * float(np.mean(values)) for way, values in regrets.items()}
        lines.append(f"| mean regret | | {mean['advice']:.1f} points | {mean['LogME']:.1f} points |")
    return lines


def report(outcomes: Outcomes) -> str:
    """Tables in Markdown, and what `rule` is to hold."""
    cases = finished(outcomes)
    ways, spread = judged(cases)
    advice = ways[0].modes
    lines = [f"{len(cases)} cases", "", f"| case | {' | '.join(MODES)} | advised | regret |", "|---" * 8 + "|"]
    for case in cases:
        cells = [
            f"{'**' if mode == case.best else ''}{case.scores[mode]:.1%}{'**' if mode == case.best else ''}"
            if mode in case.scores
            else "-"
            for mode in MODES
        ]
        regret = 100 * (case.scores[case.best] - case.scores[advice[case.name]])
        lines.append(f"| {case.name} | {' | '.join(cells)} | {advice[case.name]} | {regret:.1f} |")
    lines += [
        "",
        "| chosen by | within 1 point of the best | not told apart from it | mean regret |",
        "|---" * 4 + "|",
    ]
    for way in ways:
        lines.append(f"| {way.name} | {way.near:.0%} | {way.same:.0%} | {100 * way.regret:.1f} points |")
    lines += [
        "",
        *trunk_choices(cases),
        "",
        "coefficients of all cases, what they leave unexplained, and by how much",
    ]
    lines.append("predictions of data sets that were left out were off:")
    fit = fitted(cases)
    for mode, of in fit.coefficients.items():
        named = ", ".join(f'"{name}": {value:.2f}' for name, value in of.items())
        lines.append(f"  {mode}: {named}; {fit.spread[mode]:.2f}")
    lines.append("  " + ", ".join(f"{mode}: {value:.2f}" for mode, value in spread.items()))
    return "\n".join(lines)
