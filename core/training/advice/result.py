"""What advice is: figures of every trunk and cut, what each mode is expected to come to and to take, which of them
is advised, and why."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.common.errors import SettingError
from headstart.common.machine import machine_facts
from headstart.common.outputs import write_text
from headstart.common.table import Table
from headstart.common.text import HEADLINES, headline_text, nbytes_text, time_text
from headstart.data import Dataset
from headstart.data.samples import Samples
from headstart.models import Model
from headstart.training.advice.familiarity import Familiarity
from headstart.training.advice.measuring import CutFigures
from headstart.training.advice.rule import CUT, FULL, LINEAR, SCRATCH, STAGED, Evidence

WORDS = {
    LINEAR: "classifier",
    CUT: "from",
    STAGED: "staged",
    FULL: "full",
    SCRATCH: "scratch",
}
"""what is trained, in a table"""
LEGEND = (
    "ridge: score of a ridge regression on held-out samples; seen: on those it has learnt from; kNN: of the "
    "nearest neighbours; of 25, 50 %: of ridge regressions that have learnt from so many of the samples; "
    "silhouette: how far the classes lie apart, -1 to 1; LogME: evidence of a linear model, larger is better. "
    "expected: on samples that were not trained on; 68 %: where two of three such cases come to lie, by how far "
    "such predictions were off; > is what is advised"
)
FIT_MODES = {LINEAR: "cached", CUT: "cached"}
"""our name of what is trained -> `fit`'s mode, where it has another one"""


@dataclass(frozen=True)
class TrunkFigures:
    """What one trunk's features tell."""

    label: str
    """name, with the weights where these are needed to tell it from another"""
    model: Model = field(repr=False)
    """with the data's classes: what `fit` takes"""
    named_weights: str | None
    """as `--weights` takes them; None: the model's first published ones"""
    cuts: tuple[CutFigures, ...]
    """in the order of the network; the last is what the classifier takes"""
    familiarity: Familiarity | None
    """of its own classifier with the data; None where it has none"""
    evidence: Evidence = field(repr=False)
    """what the predictions are made from"""

    @property
    def last(self) -> CutFigures:
        return self.cuts[-1]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "trunk": self.label,
            "model": self.model.name,
            "weights": self.model.weights,
            "size": getattr(self.model.preprocess, "size", None),
            "familiarity": None if self.familiarity is None else self.familiarity.as_dict(),
            "figures": self.evidence.figures(),
            "cuts": [cut.as_dict() for cut in self.cuts],
        }


@dataclass(frozen=True)
class Choice:
    """One trunk in one mode, and what it is expected to come to."""

    trunk: str
    """`TrunkFigures.label`"""
    what: str
    """"linear": the classifier on cached features; "cut": what is behind an earlier cut, on cached features;
    "staged", "full", "scratch": as `fit` calls them"""
    cut: str | None
    """of `fit`, where another than its own is meant"""
    score: float
    """expected on samples that were not trained on: accuracy, micro F1, mean absolute error"""
    interval: tuple[float, float]
    """68 %: by how far such predictions were off"""
    seconds: float
    """of the extraction that is missing and of the epochs"""
    nbytes: int
    """of features in the store; 0 where none are kept"""
    epochs: int
    """that the seconds are of, in `staged` those of all of the network"""
    within: bool
    """the budget"""
    front: bool
    """whether nothing is both quicker and better"""

    @property
    def mode(self) -> str:
        """As `fit` calls it."""
        return FIT_MODES.get(self.what, self.what)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `fit`. A linear head says by itself how long it is trained."""
        cut = {} if self.cut is None else {"cut": self.cut}
        return {"mode": self.mode, **cut, **({} if self.what == LINEAR else {"epochs": self.epochs})}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "trunk": self.trunk,
            "what": self.what,
            "mode": self.mode,
            "cut": self.cut,
            "score": self.score,
            "interval": list(self.interval),
            "seconds": self.seconds,
            "bytes": self.nbytes,
            "epochs": self.epochs,
            "within_budget": self.within,
            "pareto": self.front,
        }


@dataclass(frozen=True)
class Advice:
    """Figures, predictions, and what is advised. `hs.fit(advice.model, train, val, **advice.best.options)` does
    it."""

    trunks: tuple[TrunkFigures, ...]
    choices: tuple[Choice, ...]
    """the best expected score first"""
    best: Choice
    """what is advised"""
    sentence: str
    """it in a sentence, with evidence and doubt"""
    headline: str
    """the score: "accuracy", "micro_f1", "mae" or "standardised_mae" """
    facts: Mapping[str, Any]
    """JSON-able: backend, device, samples, budget, seconds it took"""
    data: Samples = field(repr=False)
    """what was looked at"""
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """JSON-able: name of the data, numbers of samples, task, classes"""
    features: Any = field(default=None, repr=False)
    """the advised trunk's, at what its classifier takes"""

    def __repr__(self) -> str:
        return f"Advice({self.data.name!r}: {self.sentence})"

    def __getitem__(self, trunk: str) -> TrunkFigures:
        for figures in self.trunks:
            if figures.label == trunk:
                return figures
        raise SettingError(
            f"{trunk!r} was not looked at; expected one of {', '.join(t.label for t in self.trunks)}"
        )

    @property
    def model(self) -> Model:
        """The advised trunk with the data's classes."""
        return self[self.best.trunk].model

    def command(self, data: Sequence[str] | None = None) -> str:
        """The command that does what is advised; of a module that somebody wrapped, which no command can name, the
        call. `data`: its arguments that name the data; default: the data by their name."""
        trunk = self[self.best.trunk]
        if trunk.model.home is not None:
            named = "".join(f", {name}={value!r}" for name, value in self.best.options.items())
            return f"hs.fit(model, train, val{named})"
        words = ["headstart", "fit", *(["--data", self.data.name] if data is None else data)]
        words += ["--model", trunk.model.name]
        if trunk.named_weights is not None:
            words += ["--weights", trunk.named_weights]
        words += [word for name, value in self.best.options.items() for word in (f"--{name}", str(value))]
        return shlex.join(words)

    def table(self) -> list[dict[str, Any]]:
        """A JSON-able dict for each trunk and mode, the best expected score first."""
        return [choice.as_dict() for choice in self.choices]

    def as_table(self) -> Table:
        """What each mode is expected to come to, for a terminal."""
        rows = [
            (
                ">" if choice is self.best else "",
                choice.trunk,
                WORDS[choice.what] + (f" {choice.cut}" if choice.cut else ""),
                headline_text(self.headline, choice.score),
                " to ".join(headline_text(self.headline, end) for end in choice.interval),
                time_text(choice.seconds),
                nbytes_text(choice.nbytes) if choice.nbytes else "-",
                "" if choice.within else "over budget",
            )
            for choice in self.choices
        ]
        columns = ("", "trunk", "train", f"expected {HEADLINES[self.headline]}", "68 %", "takes", "features", "")
        return Table(columns, rows, right=(3, 4, 5, 6), gap=1)

    def figures_table(self) -> Table:
        """What features tell at each cut, for a terminal."""

        def text(value: float) -> str:
            return headline_text(self.headline, value)

        rows = [
            (
                trunk.label if k == 0 else "",
                cut.cut,
                text(cut.score),
                "-" if cut.interval is None else " to ".join(map(text, cut.interval)),
                text(cut.seen),
                text(cut.knn),
                " ".join(text(score) for _, score in cut.curve[:-1]),
                "-" if cut.silhouette is None else f"{cut.silhouette:.2f}",
                f"{cut.logme:.2f}",
            )
            for trunk in self.trunks
            for k, cut in enumerate(trunk.cuts)
        ]
        columns = ("trunk", "cut", "ridge", "95 %", "seen", "kNN", "of 25, 50 %", "silhouette", "LogME")
        return Table(columns, rows, right=tuple(range(2, 9)), legend=LEGEND, gap=1)

    def as_tables(self) -> tuple[Table, Table]:
        """Both, the figures first."""
        return self.figures_table(), self.as_table()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "machine": machine_facts(),
            "data": dict(self.about),
            "facts": dict(self.facts),
            "score": self.headline,
            "trunks": [trunk.as_dict() for trunk in self.trunks],
            "rows": self.table(),
            "best": self.best.as_dict(),
            "sentence": self.sentence,
            "command": self.command(),
        }

    def report(self, path: str | Path, command: str | None = None) -> Path:
        """Write a page that needs no network: what is expected against what it takes, the figures, and a map of
        the advised trunk's features with the samples' pictures. `command`: shown as the one to run. Returns the
        path.

        Raises SettingError where nothing can be written there.
        """
        from headstart.report.advice import advice_page
        from headstart.training.advice.maps import feature_map

        images = self.data if isinstance(self.data, Dataset) else None
        content = self.as_dict() | ({} if command is None else {"command": command})
        drawn = None if self.features is None else feature_map(self.features, self.data, images)
        return write_text(Path(path), advice_page(content | {"map": drawn}))
