"""What is said of data before anything is computed on them: how many, of which classes, and what was left out.

A folder one level too high, a class that is missing or doubled, and a disk that is not mounted show here, while
nothing has been spent yet. The command and the library say the same lines, of each data set once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from headstart.common.log import LOG
from headstart.common.text import counted, printable
from headstart.data.annotations import MULTI, NO_FOLD, REGRESSION
from headstart.data.names import alike, shown
from headstart.data.remarks import GRAVE

MOST_CHARACTERS = 180  # of the list of classes
MOST_SKIPPED = 10
MOST_LACKING = 5
MOST_TARGETS = 5

_said: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # data -> the level at which it was said
_first: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # data -> a line that is said before its own


def data_lines(train: Any, val: Any = None, test: Any = None) -> list[str]:
    """Lines about a data set, or features; with `val` about both parts of a split, or of two data sets."""
    if test is not None:
        return [*data_lines(train, val), _line(f"test: {test.name}", test)]
    if val is None:
        return [_line(train.name, train)]
    if train.name == val.name and train.classes == val.classes and train.origin is val.origin:
        whole = _named(train, len(train) + len(val))
        parts = f"{len(train):,} to train on, {len(val):,} to validate{_lacking(train, val)}"
        return [f"{whole}{_labels(train, val)}{_more(train, val)}; {parts}"]
    return [_line(f"training: {train.name}", train), _line(f"validation: {val.name}", val)]


def skipped_lines(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """What was left out of a data set, a line each; of many the first ones."""
    lines = [f"skipped {printable(path)}: {printable(reason)}" for path, reason in skipped[:MOST_SKIPPED]]
    if len(skipped) > MOST_SKIPPED:
        lines.append(f"skipped {len(skipped) - MOST_SKIPPED:,} more; .skipped of the data set lists them")
    return lines


def say(train: Any, val: Any = None, test: Any = None) -> None:
    """Log `data_lines` at info and `skipped_lines` as warnings, unless that was done of these data before."""
    level = logging.INFO if LOG.isEnabledFor(logging.INFO) else logging.WARNING
    parts = [data for data in (train, val, test) if data is not None]
    if all(_said.get(data, logging.CRITICAL) <= level for data in parts):
        return
    if level == logging.INFO:
        for line in [*(_first.pop(data) for data in parts if data in _first), *data_lines(train, val, test)]:
            LOG.info("%s", line)
    for note in dict.fromkeys(note for data in parts if data not in _said for note in getattr(data, "notes", ())):
        LOG.info("%s", printable(note))
    skipped: dict[tuple[str, str], None] = {}
    for data in parts:
        if data not in _said:
            skipped |= dict.fromkeys(tuple(entry) for entry in getattr(data, "skipped", ()))
    for line in skipped_lines(list(skipped)):
        LOG.warning("%s", line)
    for data in parts:
        say_remarks(data)
    mark(*parts, level=level)


def say_before(data: Any, line: str) -> None:
    """Have `say` log this line before those of the data: what it tells belongs to a start, and a mistake that is
    found until then is told alone."""
    _first[data] = line


def say_remarks(data: Any) -> None:
    """Log what was done to the pictures of a data set as they were decoded (of several frames the first was taken,
    say) and was not said yet: one line for all of a kind."""
    for remark, line in data.remark_lines() if hasattr(data, "remark_lines") else ():
        level = logging.WARNING if remark in GRAVE else logging.INFO
        LOG.log(level, "%s", printable(f"{data.name}: {line}"))


def mark(*data: Any, level: int = logging.INFO) -> None:
    """These have been spoken of, say by the process that started this one."""
    for part in data:
        if part is not None:
            _said[part] = level


def _line(name: str, data: Any) -> str:
    parts = ", ".join(f"{part} {len(samples):,}" for part, samples in data.parts.items())
    return f"{_named(data, len(data), name)}{_labels(data)}{_more(data)}{parts and f'; {parts}'}"


def _named(data: Any, count: int, name: str | None = None) -> str:
    kind = "sample" if getattr(data, "entries", ()) is not None else "image"
    return f"{printable(data.name if name is None else name)}: {count:,} {kind}{'s' if count != 1 else ''}"


def _labels(*parts: Any) -> str:
    """What the labels of these parts of one data set are, by task."""
    task, names = parts[0].task, parts[0].classes
    values = [data.labels for data in parts if len(data)]
    if task == REGRESSION:
        table = np.concatenate(values) if values else np.zeros((0, len(names)), np.float32)
        texts = [
            f"{_plain(name)} {column.min():.4g} to {column.max():.4g} (mean {column.mean(dtype=np.float64):.4g})"
            for name, column in zip(names[:MOST_TARGETS], table.T, strict=False)
            if len(column)
        ]
        more = f" and {len(names) - len(texts)} more" if len(names) > len(texts) and texts else ""
        return f" with {counted(len(names), 'target')}: {', '.join(texts)}{more}; regression"
    counts = np.sum([data.annotations.counts() for data in parts], axis=0)
    if task == MULTI:
        each = np.zeros(1, np.int64)
        if values:
            each = np.concatenate([part.sum(1, dtype=np.int64) for part in values])
        none = int((each == 0).sum())
        return (
            f" with {counted(len(names), 'label')}{_listed(names, counts)}; multi-label, {each.mean():.1f} a "
            "sample" + (f", {none:,} without any" if none else "")
        )
    return _classes(names, counts)


def _more(*parts: Any) -> str:
    """Groups, folds and weights, where there are such."""
    text = ""
    if (groups := [data.groups for data in parts])[0] is not None:
        counts = Counter(name for names in groups for name in names).values()
        text += f"; in {counted(len(counts), 'group')} of {_range(counts)}"
    if len(parts) == 1 and (names := parts[0].fold_names):
        whole = parts[0].train if parts[0].parts else parts[0]
        folds: Counter[str] = Counter(whole.annotations.folds.tolist())
        text += f"; in {counted(len(names), 'fold')} of {_range([folds[name] for name in names])}"
        text += f", and {never:,} that are never held out" if (never := folds[NO_FOLD]) else ""
    if (weights := [data.weights for data in parts if len(data)]) and weights[0] is not None:
        every = np.concatenate(weights)
        text += f"; weighted {every.min():.3g} to {every.max():.3g}"
    return text


def _range(counts: Collection[int]) -> str:
    least, most = min(counts, default=0), max(counts, default=0)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _lacking(train: Any, val: Any) -> str:
    """Which classes of the training data have no sample to validate, in a few words."""
    if train.task == REGRESSION:
        return ""
    lacking = np.flatnonzero((train.annotations.counts() > 0) & (val.annotations.counts() == 0)).tolist()
    if not lacking:
        return ""
    if len(lacking) > MOST_LACKING:
        return f", of {len(lacking):,} classes none"
    *others, last = (_plain(train.classes[k]) for k in lacking)
    return f", none of {' and '.join(filter(None, (', '.join(others), last)))}"


def _classes(names: Sequence[str], counts: np.ndarray) -> str:
    """ " in 2 classes: cat 633, dog 898"; see `_listed`."""
    if tuple(names) == ("0",):  # images without labels
        return ""
    return f" in {len(names):,} class{'es' if len(names) != 1 else ''}{_listed(names, counts)}"


def _listed(names: Sequence[str], counts: np.ndarray) -> str:
    """ ": cat 633, dog 898"; of many the first ones, with the rarest and the commonest."""
    texts, room = [], MOST_CHARACTERS
    for name, count in zip(names, counts.tolist(), strict=False):
        texts.append(f"{_plain(name)} {count:,}")
        room -= len(texts[-1]) + 2
        if room < 0 and len(texts) > 1:
            break
    line = f": {', '.join(texts)}"
    if len(texts) < len(names):
        line += f" and {len(names) - len(texts):,} more, of {counts.min():,} to {counts.max():,} each"
        if counts.min() != counts.max():
            rare, common = int(counts.argmin()), int(counts.argmax())
            line += (
                f" (rarest {_plain(names[rare])} {counts[rare]:,}, commonest {_plain(names[common])} "
                f"{counts[common]:,})"
            )
    lower: dict[str, str] = {}
    for name in names:
        if (other := lower.setdefault(name.casefold(), name)) != name:
            line += f" (note: {shown(other)} and {shown(name)} differ in capitals only)"
            break
    return line


def _plain(name: str) -> str:
    """A class's name in a list: as it is, or in quotes with escapes where it could be misread."""
    short = name if len(name) <= 40 else f"{name[:37]}..."
    plain = short.isprintable() and short == alike(short) and not set(short) & set(",:;")
    plain = plain and not short.isdigit()  # a number stands behind it
    return short if plain else shown(short)
