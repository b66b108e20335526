"""The cards of a page that hold pictures: what a run got wrong, and the first kernels before and after.

Invariant: a page stays small enough to be opened; pictures that would make it larger are left out and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headstart.common.text import share_text
from headstart.report import figures
from headstart.report.scores import classes_card, scores_card
from headstart.report.series import Entry, confused, finite, headline_name, is_weighted

LARGEST = 2_950_000  # bytes of a page; pictures that would exceed it are left out, those of the last runs first
CLASSES_IN_A_MATRIX = 30
CONFUSED_PAIRS = 20
TASK_OF = {"micro_f1": "multi", "mae": "regression", "standardised_mae": "regression"}
WITHOUT = "Which samples they are is not known."
IMAGE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass
class Images:
    """Pictures by number: each is in the page once, however often it is shown."""

    uris: dict[str, int] = field(default_factory=dict)

    def number(self, uri: Any) -> int | None:
        """None for what is no picture."""
        if not isinstance(uri, str) or not IMAGE.fullmatch(uri):
            return None
        return self.uris.setdefault(uri, len(self.uris))

    def within(self, room: int) -> dict[str, str]:
        """Number -> picture, of as many as fit into so many bytes."""
        kept: dict[str, str] = {}
        for uri, number in self.uris.items():
            room -= len(uri) + 16
            if room >= 0:
                kept[str(number)] = uri
        return kept


def errors_card(entry: Entry, known: Mapping[str, Any], images: Images) -> dict[str, Any]:
    """A run's confusion matrix, or the pairs of classes confused most, its classes' scores, its worst errors; of
    several labels or numbers a sample, of which none is taken for another, the scores and the worst."""
    task = (entry.get("scores") or {}).get("task") or TASK_OF.get(headline_name(entry), "single")
    if task != "single":
        return _misses_card(entry, task, known, images)
    validation = entry["validation"]
    classes = entry.get("classes") or (known.get("data") or {}).get("classes") or ()
    pictures = known.get("pictures") or {}

    def name(index: Any) -> str:
        known = isinstance(index, int) and 0 <= index < len(classes)
        return str(classes[index] if known else index)

    cells = [(int(t), int(p), int(n)) for t, p, n in validation.get("confusion") or ()]
    lost_samples = int(finite(validation.get("not_finite")) or 0)  # taken for no class
    samples = sum(n for _, _, n in cells) + lost_samples
    wrong = sum(n for t, p, n in cells if t != p) + lost_samples
    of_class: dict[int, int] = {}
    for true, _, n in cells:
        of_class[true] = of_class.get(true, 0) + n
    count, share = f"{wrong:,} of {samples:,} wrong", _right(entry, "accuracy")
    if is_weighted(entry) and share is not None:
        count += f", {share_text(1 - share)} by weight"
    card: dict[str, Any] = {
        "label": entry["label"],
        "count": count if samples else "",
        "weighted": is_weighted(entry),
        "matrix": None,
        "pairs": None,
        "scores": scores_card(entry),
        "classes": classes_card(entry),
        "note": None,
        "worst": [
            {
                "picture": images.number(pictures.get(str(miss.get("id")))),
                "id": miss.get("id"),
                "true": name(miss.get("label")),
                "predicted": name(miss.get("predicted")),
                "between": "taken for",
                "how": figures.percent(miss.get("probability")),
            }
            for miss in validation.get("worst") or ()
        ],
    }
    if card["worst"]:
        card["note"] = "The largest loss first. The percentage: how probable the model held the class it chose."
    card["without"] = WITHOUT if wrong else "None: every sample was classified correctly."
    if len(classes) > CLASSES_IN_A_MATRIX:
        card["pairs"] = [
            {"true": name(t), "predicted": name(p), "count": n, "of": of_class[t]}
            for t, p, n in confused(cells, CONFUSED_PAIRS)
        ]
    elif cells:
        counts = {(t, p): n for t, p, n in cells}
        card["matrix"] = {"names": list(classes), "lines": list(_lines(counts, of_class, len(classes)))}
    return card


def _right(entry: Entry, name: str) -> float | None:
    """The share of all validation samples that are right: what a run with folds is known by is a mean over these.
    `name`: what scores call it."""
    scores = (entry.get("scores") or {}).get("values") or {}
    return finite(scores.get(name, None if entry.get("folds") else entry.get("val_accuracy")))


def _misses_card(entry: Entry, task: str, known: Mapping[str, Any], images: Images) -> dict[str, Any]:
    """Of several labels, or of numbers, a sample."""
    validation, pictures = entry["validation"], known.get("pictures") or {}
    samples, lost_samples = (int(finite(validation.get(name)) or 0) for name in ("samples", "not_finite"))
    right, count, note, without = _right(entry, "subset_accuracy"), f"{samples:,} samples", None, WITHOUT
    if task == "multi" and right is not None:
        wrong = samples - round(right * samples)
        count = f"{wrong:,} of {samples:,} with a label missing or too many"
        if is_weighted(entry):  # then it is a share of their weight
            count = f"{share_text(1 - right)} by weight of {samples:,} with a label missing or too many"
        without = WITHOUT if right < 1 else "None: of every sample all labels are right."
    if task == "regression":
        note = "Off: by so many standard deviations of the target."
        targets = entry.get("classes") or (known.get("data") or {}).get("classes") or ()
        if len(targets) > 1:
            note = f"Targets: {'; '.join(map(str, targets))}. {note[:-1]}, in the mean over targets."
    if lost_samples:
        count += f", {lost_samples:,} without a finite prediction"
    worst = [
        {
            "picture": images.number(pictures.get(str(miss.get("id")))),
            "id": miss.get("id"),
            "true": miss.get("label"),
            "between": "predicted",
            "predicted": miss.get("predicted"),
            "how": f"{'off' if task == 'regression' else 'loss'} {figures.of_any_size(miss.get('error'))}",
        }
        for miss in validation.get("misses") or ()
    ]
    return {
        "label": entry["label"],
        "count": count if samples else "",
        "weighted": is_weighted(entry),
        "matrix": None,
        "pairs": None,
        "scores": scores_card(entry),
        "classes": classes_card(entry),
        "note": note if worst else None,
        "worst": worst,
        "without": without,
    }


def _lines(
    counts: Mapping[tuple[int, int], int], of_class: Mapping[int, int], classes: int
) -> Iterator[list[dict[str, Any]]]:
    """The matrix's lines: counts, and the class that colours a cell; "w3" is wrong, by its share of the true class
    in tenths. The texts are short, since there may be many."""
    for true in range(classes):
        line = []
        for predicted in range(classes):
            n = counts.get((true, predicted), 0)
            share = min(1.0, max(0.0, n / of_class[true])) if n and of_class[true] else 0.0
            tenths = round(10 * share) if true == predicted else round(1.5 + 8.5 * share)
            line.append({"n": n, "style": f"{'r' if true == predicted else 'w'}{tenths}"})
        yield line


def kernel_cards(entries: Sequence[Entry], images: Images) -> list[dict[str, Any]]:
    """A card for each triple of pictures that differs; runs whose kernels are the same share one."""
    cards: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        pictures = entry.get("kernels")
        if not pictures:
            continue
        three = tuple(images.number(pictures.get(name)) for name in ("before", "after", "difference"))
        largest = pictures.get("max_difference")
        if largest == 0:
            words = "exactly 0: frozen"
        elif finite(largest) is None:
            words = "not finite: the training diverged"
        else:
            words = f"{float(largest):.3g}"
        key = (*three, pictures.get("node"), words)
        card = cards.setdefault(
            key,
            {
                "labels": [],
                "three": list(zip(("before", "after", "difference"), three, strict=True)),
                "words": words,
                "node": pictures.get("node"),
                "shown": pictures.get("shown"),
                "of": pictures.get("of"),
            },
        )
        card["labels"].append(entry["label"])
    return list(cards.values())
