"""How the stages of a training ended, in words: after how many epochs, and which of them was kept. Log, terminal,
report and TensorBoard all say it with these.

Entries may come from a file that anybody wrote, or from a version without such marks: of what they do not tell,
nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.text import counted
from headstart.report.series import Entry, finite


@dataclass(frozen=True)
class Ending:
    """Of one stage."""

    trained: int
    """epochs"""
    kept: int
    """the number, from 1, of the epoch whose head was kept"""
    most: int | None = None
    """how many epochs there might have been; None: not known"""
    monitor: str | None = None
    """the score by which the kept one is the best; None: nothing decided, and the last one was kept"""
    stage: str = ""
    """"head" or "all" where there were both"""
    of_folds: bool = False
    """whether it is over where folds had their best epoch, in the middle of them; the last is kept then"""

    @property
    def early(self) -> bool:
        """Whether it stopped before the last epoch that there might have been."""
        return self.most is not None and self.trained < self.most and not self.of_folds

    @property
    def words(self) -> str:
        """ "stopped after 37 of at most 100 epochs; kept epoch 22, the best by val_loss"."""
        text = counted(self.trained, "epoch")
        if self.early:
            text = f"stopped after {self.trained} of at most {self.most} epochs"
        if self.of_folds:
            text = f"trained for {self.trained} of {self.most} epochs, the median of the folds' best"
        elif self.monitor is not None:
            text += f"; kept epoch {self.kept}, the best by {self.monitor}"
        elif self.trained > 1 or self.early:
            text += "; kept the last" if self.kept == self.trained else f"; kept epoch {self.kept}"
        return f"{self.stage}: {text}" if self.stage else text

    @property
    def short(self) -> str:
        """ "22 of 37"."""
        return f"{self.kept} of {self.trained}"


def endings(entry: Entry) -> list[Ending]:
    """Of each stage of a run, as an entry of a comparison has it. None of a head that was solved, or where nothing
    says which epoch was kept."""
    settings = entry.get("settings") or {}
    history, head_history = (entry.get(name) or () for name in ("history", "head_history"))
    if settings.get("solver") or not history:
        return []
    about = settings.get("stages")
    about = about if isinstance(about, Mapping) else {}
    monitor = settings.get("monitor")
    if not head_history:
        return _ending(history, entry.get("best_epoch"), about.get("all") or about.get("head"), monitor, "")
    return [
        *_ending(head_history, entry.get("head_best_epoch"), about.get("head"), monitor, "head"),
        *_ending(history, entry.get("best_epoch"), about.get("all"), monitor, "all"),
    ]


def _ending(records: Sequence[Mapping[str, Any]], kept: Any, about: Any, monitor: Any, stage: str) -> list[Ending]:
    """One, or none."""
    if not isinstance(kept, int) or not 1 <= kept <= len(records):
        return []
    most = about.get("max_epochs") if isinstance(about, Mapping) else None
    # a figure that is not finite decides nothing, and there is none without validation data
    figure = monitor if monitor in ("val_loss", "val_accuracy") else "val_score"
    value = records[kept - 1].get(figure, records[kept - 1].get("val_accuracy"))
    decided = isinstance(monitor, str) and finite(value) is not None
    of_folds = isinstance(about, Mapping) and isinstance(about.get("ended_after"), int)
    return [
        Ending(
            len(records),
            kept,
            most if isinstance(most, int) else None,
            monitor if decided else None,
            stage,
            of_folds,
        )
    ]


def sentence(entry: Entry) -> str:
    """On one run: "stopped after 37 of at most 100 epochs; kept epoch 22, the best by val_loss". May be empty."""
    return ". ".join(ending.words for ending in endings(entry))


def overview(entries: Sequence[Entry], names: Sequence[str]) -> str:
    """On several runs, by these names: "kept epoch, by val_loss: full 2 of 3, cached 22 of 37 (stopped early)".
    May be empty."""
    ends = [endings(entry) for entry in entries]
    monitors = {ending.monitor for stages in ends for ending in stages}
    by = f", by {monitors.pop()}" if len(monitors) == 1 and None not in monitors else ""
    told = [f"{name} {_brief(stages)}" for name, stages in zip(names, ends, strict=True) if stages]
    return f"kept epoch{by}: {', '.join(told)}" if told else ""


def _brief(stages: Sequence[Ending]) -> str:
    *before, last = stages
    asides = [f"{ending.stage}: {ending.short}" for ending in before]
    if any(ending.early for ending in stages):
        asides.append("stopped early")
    return last.short + (f" ({', '.join(asides)})" if asides else "")
