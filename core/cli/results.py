"""The results of a command: written to files first, and printed even where that fails.

Invariant: a result that could not be written is still printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from headstart.common.errors import HeadstartError
from headstart.common.text import HEADLINES, headline_text, share_text

T = TypeVar("T")

_failures: list[BaseException] = []


@contextmanager
def failures_told_last() -> Iterator[None]:
    """While the body runs, `attempt` puts errors off until its end. The first is raised then, unless the body
    itself fails."""
    _failures.clear()
    yield
    if _failures:
        raise _failures[0]


def attempt(write: Callable[[], T]) -> T | None:
    """What `write` returns. None where it raised an error of ours, which is raised when all has been printed."""
    return _attempt(write, HeadstartError)


def attempt_or_stop(compute: Callable[[], T]) -> T | None:
    """`attempt` of what takes long, after results that are not printed yet: None, too, where somebody stops it."""
    return _attempt(compute, HeadstartError, KeyboardInterrupt)


def _attempt(write: Callable[[], T], *errors: type[BaseException]) -> T | None:
    try:
        return write()
    except errors as error:
        _failures.append(error)
        return None


def test_figures(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """What --json has of the test data, `Evaluation.as_test`; nothing where there were none."""
    return {} if facts is None else {"test": facts}


def test_line(facts: Mapping[str, Any], whose: str = "") -> str:
    """How a model does on the test data, of `Evaluation.as_dict`; `whose`: "of the best", say."""
    about = f"{facts['samples']:,} test samples{' ' + whose if whose else ''}"
    scores = facts.get("scores") or {}
    if scores.get("task") in (None, "single"):
        ends = scores.get("intervals", {}).get("accuracy")
        interval = "" if ends is None else f" (95 %: {' to '.join(share_text(end, '') for end in ends)})"
        return f"{about}: accuracy {share_text(facts['accuracy'])}{interval}, loss {facts['loss']:.4g}"
    told = []
    for name, value in scores["values"].items():
        ends = scores["intervals"].get(name)
        interval = "" if ends is None else f" (95 %: {' to '.join(headline_text(name, end) for end in ends)})"
        if name in HEADLINES:
            told.append(f"{name} {headline_text(name, value)}{interval}")
    told.append(f"loss {facts['loss']:.4g}")
    return f"{about}: {', '.join(told)}"


def write_figures(file: Path | None, figures: Any) -> Path | None:
    """Write figures as JSON to the file that --json names, if it does; SettingError where that is impossible."""
    from headstart.common.outputs import write_json

    return None if file is None else write_json(file, figures)


def keep_figures(file: Path | None, figures: Any) -> Path | None:
    """`write_figures`, for results that took long to compute: an error is raised only when all has been
    printed."""
    return attempt(lambda: write_figures(file, figures))
