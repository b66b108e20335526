"""The table of a plan: what is expected at each cut, what caching may cost, and which cut is the best within
that."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from headstart.common.errors import SettingError
from headstart.common.machine import machine_facts
from headstart.common.sizes import parse_nbytes
from headstart.common.table import Table
from headstart.training.tables import plan_table


@dataclass(frozen=True)
class CutPlan:
    """What is expected at one cut."""

    cut: str
    shape: tuple[int, ...]
    """of one sample's features"""
    nbytes: int
    """of the features of all samples in the store"""
    trunk_multiply_adds: int
    """of one sample"""
    head_multiply_adds: int
    """of one sample, forward"""
    missing: int
    """samples whose features the store does not have yet"""
    extraction_seconds: float
    """until the store has them, what a framework compiles included"""
    cached_epoch_seconds: float
    """training and validation, compiling not included"""
    uncached_epoch_seconds: float
    """the same head, the trunk run in every epoch"""
    where: str
    """"device", "memory" or "disk": where the features lie while it trains, as `fit` decides it"""
    measured: bool
    """False where it lies between cuts that were measured"""
    epochs: int
    """that are trained, if patience does not end the training before"""
    total_seconds: float
    """of the extraction and all epochs on the cache"""
    uncached_total_seconds: float

    @property
    def pays_off_after_epochs(self) -> int | None:
        """The number of epochs from which the cache has saved time; None: never."""
        gain = self.uncached_epoch_seconds - self.cached_epoch_seconds
        return max(1, math.ceil(self.extraction_seconds / gain)) if gain > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "shape": list(self.shape), "pays_off_after_epochs": self.pays_off_after_epochs}


@dataclass(frozen=True)
class Budget:
    """What caching may cost."""

    nbytes: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | Budget | None) -> Budget | None:
        """ "2GB", "10min", or both with a comma between them; SettingError otherwise."""
        if text is None or isinstance(text, Budget):
            return text
        if not isinstance(text, str):
            raise SettingError(f"budget={text!r}; expected a text such as '2GB', '10min' or '2GB,10min'")
        limits: dict[str, float] = {}
        parts = text.split(",")
        for part in parts:
            time_of = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|min|h)\s*", part)
            name = "seconds" if time_of else "nbytes"
            if name in limits:
                raise SettingError(f"budget={text!r} says twice how {'long' if time_of else 'large'}")
            if time_of:
                limits[name] = float(time_of[1]) * {"s": 1, "min": 60, "h": 3600}[time_of[2]]
                continue
            try:
                if len(parts) > 1 and part.strip().isdecimal():  # of 1,5min: not a byte, and five minutes
                    raise SettingError(f"{part!r} has no unit")
                limits[name] = parse_nbytes(part)
            except SettingError:
                raise SettingError(
                    f"budget={text!r}; expected bytes such as 2GB, a time such as 90s, 10min or 2h, or both with "
                    "a comma between them"
                ) from None
        return cls(None if "nbytes" not in limits else int(limits["nbytes"]), limits.get("seconds"))

    def holds(self, plan: CutPlan) -> bool:
        return (self.nbytes is None or plan.nbytes <= self.nbytes) and (
            self.seconds is None or plan.total_seconds <= self.seconds
        )


@dataclass(frozen=True)
class Plan:
    """The cuts in the order of the graph, and what the prediction rests on."""

    rows: tuple[CutPlan, ...]
    facts: Mapping[str, Any]
    """JSON-able: the backend, the device, samples, and the rates that were measured"""
    budget: Budget | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able: name, numbers of samples, classes"""
    model: Mapping[str, Any] = field(default_factory=dict)
    """as `Model.describe` has it"""

    def __repr__(self) -> str:
        best = "" if self.best is None else f", the best within the budget {self.best.cut!r}"
        return f"Plan({self.model.get('name')!r}, {len(self.rows)} cuts{best})"

    def __getitem__(self, cut: str) -> CutPlan:
        for plan in self.rows:
            if plan.cut == cut:
                return plan
        raise SettingError(f"{cut!r} was not planned; expected one of {', '.join(plan.cut for plan in self.rows)}")

    @property
    def epochs(self) -> int | None:
        """The number of epochs, if all cuts have the same; else None, as where heads of linear layers are trained
        for longer than those with convolutions."""
        numbers = {plan.epochs for plan in self.rows}
        return numbers.pop() if len(numbers) == 1 else None

    @property
    def best(self) -> CutPlan | None:
        """Within the budget, the first cut in the network whose cache pays off within the epochs: the one that
        trains the most. None where no cut is within it, or no budget was given."""
        if self.budget is None:
            return None
        within = [plan for plan in self.rows if self.budget.holds(plan)]
        paying = [plan for plan in within if (plan.pays_off_after_epochs or plan.epochs + 1) <= plan.epochs]
        return next(iter(paying or within), None)

    def table(self) -> list[dict[str, Any]]:
        """A JSON-able dict for each cut."""
        return [plan.as_dict() for plan in self.rows]

    def as_table(self) -> Table:
        """For a terminal."""
        return plan_table(self.table())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "machine": machine_facts(),
            "data": dict(self.data),
            "model": dict(self.model),
            "epochs": self.epochs,
            "facts": dict(self.facts),
            "best": None if self.best is None else self.best.cut,
            "rows": self.table(),
        }
