"""How figures and names are put into words, for terminals, logs and reports alike.

Invariant: text from elsewhere, names of files and classes, steers no terminal, and is no secret.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from headstart.common.redact import redacted

ACCURACY = "accuracy"
HEADLINES = {ACCURACY: "acc", "micro_f1": "F1", "mae": "MAE", "standardised_mae": "MAE/sd"}
"""the scores that a task is known by, as heads of columns"""
MOST_DIGITS = 4
"""behind the point of a percentage"""


def nbytes_text(nbytes: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(nbytes, 1) < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError


def printable(text: str) -> str:
    """Text from elsewhere, names of files and classes, so that it steers no terminal and can be encoded: what is
    not printable comes as an escape sequence of Python's."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def printable_lines(text: str) -> str:
    """`printable`, with the ends of lines left as they are."""
    return "\n".join(map(printable, text.split("\n")))


def say(text: object, err: bool = False) -> None:
    """Print a line, without what would steer a terminal and without secrets: to standard output, or to standard
    error."""
    # in one piece: an interrupt may come between a line and its end
    print(f"{printable_lines(redacted(str(text)))}\n", end="", file=sys.stderr if err else sys.stdout, flush=True)


def shortened(text: str, length: int = 80) -> str:
    """`text`, fit for a terminal and of `length` characters at most: a stranger's word may be of any length."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 3] + "..."


def hint(label: Mapping[str, Any], name: str) -> str:
    """What a trunk's label says of "model", "weights" or "cut", fit for a terminal; "?" where it says nothing."""
    return shortened(str(label.get(name, "?")))


def counted(count: float, noun: str) -> str:
    """1 shard, 2,000 shards, 0.5 GPUs. `noun`: whose plural has an s behind it."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun}{'' if count == 1 else 's'}"


def told_apart(values: Sequence[float]) -> list[str]:
    """Numbers as texts: whole ones as they are, since a seed is no rough size, others with six digits, or with as
    many more as it takes that no two of them that differ look alike."""
    different, texts = len(set(values)), []
    for digits in range(6, 18):
        texts = [str(value) if isinstance(value, int) else f"{value:.{digits}g}" for value in values]
        if len(set(texts)) >= different:
            break
    return texts


def listed(names: Sequence[str]) -> str:
    """ "jax, flax and optax"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def first_few(texts: Collection[str], most: int, between: str = ", ") -> str:
    """The first `most`, in their order, and how many more there are, so that a message stays readable: "a, b and 3
    more", or with "; " between them "a; b; and 3 more"."""
    more = len(texts) - most
    tail = f"{';' if between == '; ' else ''} and {more:,} more" if more > 0 else ""
    return between.join(islice(texts, most)) + tail


def not_installed(modules: Sequence[str]) -> str:
    """ "jax and flax, which are not installed"."""
    return f"{listed(modules)}, which {'is' if len(modules) == 1 else 'are'} not installed"


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def shape_text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def seconds_text(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def time_text(seconds: float) -> str:
    """A time for people: 0.0123 s, 4.5 s, 3.2 min, 1.5 h."""
    if seconds < 0.1:
        return f"{seconds:.4f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def end_text(code: int) -> str:
    """How a process ended, by its return code."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def raised_text(error: BaseException, length: int = 80) -> str:
    """What somebody else's error says, with its kind, as one line."""
    return shortened(" ".join(f"{type(error).__name__}: {error}".split()), length)


def extraction_line(stats: Any) -> str:
    made = f", made by {' and '.join(stats.made_by)}" if stats.reused else ""
    return (
        f"features: {stats.extracted} extracted, {stats.reused} reused from the cache{made}; {stats.seconds:.2f} s"
    )


def placement_line(features: Mapping[str, Any]) -> str:
    """Where the features of a run were; `features` as in its settings."""
    size = nbytes_text(features["nbytes"])
    if features["where"] == "device":
        return f"{size} of features, all on the device"
    pools, limit = nbytes_text(features["pool_nbytes"]), nbytes_text(features["limit"])
    return f"{size} of features, streamed from {features['where']} in pools of {pools}: {limit} may be held"


def epoch_line(what: str, record: Any) -> str:
    value = record if isinstance(record, Mapping) else record.as_dict()
    line = f"{what}epoch {value['epoch']}: loss {plain_text(value['loss'])}"
    if value["accuracy"] is not None:
        # beside micro F1 it is to be said that a sample is right only where all of its labels are
        line += f", {'subset ' if value['score'] == 'micro_f1' else ''}accuracy {share_text(value['accuracy'])}"
    if value["val_loss"] is not None:
        line += f", val_loss {plain_text(value['val_loss'])}"
    if value["val_score"] is not None:
        line += f", val_{value['score']} {headline_text(value['score'], value['val_score'])}"
    return f"{line}, {value['seconds']['total']:.2f} s"


def amount_text(value: float) -> str:
    """A number in units of which nothing is known, four digits or all whole ones: 0.01235, 23,457."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def share_text(share: float, unit: str = "%") -> str:
    """A share from 0 to 1 as percent, to a tenth. One that a tenth does not tell from none or all has more digits,
    six at most of 100, so that "100.0%" and "0.0%" are exact: 99.96%, 0.004%."""
    digits = 1
    while digits < MOST_DIGITS and 0 < share < 1 and float(f"{100 * share:.{digits}f}") in (0, 100):
        digits += 1
    return f"{100 * share:.{digits}f}{unit}"


def points_text(share: float, sign: str = "") -> str:
    """A difference of two shares in points of a percentage, to a tenth. One that a tenth does not tell from none
    has a digit that does, so that "0.0" is exact: 0.02, 1e-05. `sign`: "+" where it is to have one."""
    return f"{100 * share:{sign}.{'1f' if abs(share) >= 0.0005 or not share else '1g'}}"


def plain_text(value: float) -> str:
    """A loss, or an R2, to four digits behind the point. One that these do not tell from 0 or 1 has more, so that
    "0.0000" and "1.0000" are exact: 3.2e-05, 0.99998."""
    text = f"{value:.4f}"
    if value == 0 or abs(value) >= 0.00005:
        digits = 4
        while digits < 2 * MOST_DIGITS and value < 1 and float(text) == 1:
            digits += 1
            text = f"{value:.{digits}f}"
        return text
    return text if value != value else f"{value:.2g}"


def headline_text(name: str, value: float) -> str:
    """The score that a task is known by: a share as percent, an error as the number that it is."""
    return amount_text(value) if name in ("mae", "standardised_mae") else share_text(value)


def folds_line(scores: Any) -> str:
    """What cross-validation says, of `FoldScores` or of its `as_dict`."""
    told = scores if isinstance(scores, Mapping) else scores.as_dict()
    name, count = told["score"], len(told["values"])
    if told["mean"] is None:
        return f"{name} over {count} folds: none is known"
    ends = told["interval"]
    interval = "" if ends is None else f" (95 %: {' to '.join(headline_text(name, end) for end in ends)})"
    return f"{name} over {count} folds {headline_text(name, told['mean'])}{interval}"


def accuracy_text(row: Mapping[str, Any], name: str) -> str:
    """A share of right answers; of a run that diverged there is none to tell."""
    if row.get("diverged"):
        return "diverged"
    return "-" if row[name] is None else share_text(row[name])


def val_score_text(row: Mapping[str, Any]) -> str:
    """The headline score of a row of a table, which says which one it is; of tables of before it is accuracy. Of
    several labels the share of samples with all of them right is another figure, and never stands in for it."""
    name = row.get("score") or ACCURACY
    if row.get("diverged") or (row.get("val_score") is None and name == ACCURACY):
        return accuracy_text(row, "val_accuracy")
    return "-" if row["val_score"] is None else headline_text(name, row["val_score"])


def val_score_name(rows: Iterable[Mapping[str, Any]]) -> str:
    """The head of its column: "val acc", "val F1", "val MAE"; "val score" where the rows have several. "acc, 5
    folds" where each is the mean over so many."""
    rows = list(rows)
    scores = {row.get("score") or ACCURACY for row in rows}
    name = HEADLINES.get(scores.pop(), "score") if len(scores) == 1 else "score"
    counts = {len((row.get("folds") or {}).get("values") or ()) for row in rows}
    return f"{name}, {counts.pop()} folds" if len(counts) == 1 and counts != {0} else f"val {name}"
