"""The card of a run that was cross-validated: a row a fold, and what the model itself was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report import figures
from headstart.report.headlines import HEADLINES, Headline
from headstart.report.series import Entry, finite


def fold_cards(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Of the entries that have folds, as the template shows them."""
    return [_card(entry, folds) for entry in entries if (folds := entry.get("folds"))]


def _card(entry: Entry, folds: Mapping[str, Any]) -> dict[str, Any]:
    headline = HEADLINES.get(str(folds.get("score")), HEADLINES["accuracy"])
    names = folds.get("names") or range(1, len(folds.get("values") or ()) + 1)
    columns = [names, *(folds.get(name) or () for name in ("sizes", "values", "losses", "best_epochs"))]
    return {
        "label": entry["label"],
        "score": headline.words,
        "sentence": _sentence(entry, folds, headline),
        "rows": [
            {
                "fold": fold,
                "held_out": figures.count(size),
                "score": headline.text(value),
                "loss": figures.loss(loss),
                "epoch": figures.count(epoch),
            }
            for fold, size, value, loss, epoch in zip(*columns, strict=False)
        ],
    }


def _sentence(entry: Entry, folds: Mapping[str, Any], headline: Headline) -> str:
    mean, ends = finite(folds.get("mean")), folds.get("interval")
    said = f"{headline.words} {headline.text(mean)} in the mean"
    said += f" (95 %: {headline.interval(ends)}, by Student's t over the folds)" if ends else ""
    always, epochs = folds.get("always") or 0, entry.get("best_epoch")
    samples = sum(folds.get("sizes") or ()) + always
    trained = f" The model is trained on all {figures.count(samples)} samples"
    trained += f" for {epochs} epochs, the folds' median best." if epochs else "."
    if always:
        trained += f" {figures.count(always)} of them are in no fold, and in each training."
    return figures.capital(said) + "." + trained
