"""What an exported file says of itself: the texts of `headstart.models.exporting.parts`, read as a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.common.errors import ModelFileError
from headstart.common.reading import ListOf, check, parse_json
from headstart.common.text import shortened
from headstart.data.annotations import MULTI, TASKS
from headstart.data.inputs import Arrays
from headstart.data.names import class_list
from headstart.data.preprocess import Preprocess
from headstart.models.exporting.parts import HEAD, NOT_VERIFIED, PARTS
from headstart.training.exporting.request import VERIFIED
from headstart.training.scores.multi import THRESHOLD


@dataclass(frozen=True)
class About:
    part: str
    """"whole"; "trunk", from pictures to features; "head", from features to the outputs"""
    task: str
    """what the outputs mean: "single", "multi" or "regression" """
    classes: tuple[str, ...]
    """the names of the outputs' columns"""
    threshold: float
    """of several labels: the probability above which one is there"""
    preprocess: Preprocess | Arrays | None
    """how a picture is brought to the right size, or the arrays that a wrapped module takes; None of a head"""
    verified: Mapping[str, Any] | None
    """what was found as the file was held to its run; None where nothing was"""
    cut: str | None
    """the node where a trunk ends and a head begins"""

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> About:
        """KeyError for a text that is missing, ValueError or an error of headstart's for one that says nothing."""
        part = _one_of(texts, "part", PARTS)
        task = _one_of(texts, "task", TASKS)
        return cls(
            part=part,
            task=task,
            classes=class_list(read_json(texts["classes"], "classes", ListOf(str)), ModelFileError),
            threshold=_threshold(texts) if task == MULTI else THRESHOLD,
            preprocess=None if part == HEAD else _preprocess(texts["preprocess"]),
            verified=_verified(texts),
            cut=texts.get("cut"),
        )


def _one_of(texts: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    if texts[key] not in allowed:
        raise ValueError(f"its {key} is '{shortened(texts[key])}'; expected one of {', '.join(allowed)}")
    return texts[key]


def read_json(text: str, what: str, shape: Any) -> Any:
    """JSON of this shape (`headstart.common.reading.check`); ValueError."""
    try:
        content = parse_json(text)
        check(content, shape)
    except ValueError as reason:
        raise ValueError(f"its {what} cannot be read: {shortened(str(reason))}") from None
    return content


def _preprocess(text: str) -> Preprocess | Arrays:
    settings = read_json(text, "preprocessing", dict)
    return Arrays.from_dict(settings) if "arrays" in settings else Preprocess.from_dict(settings)


def _threshold(texts: Mapping[str, str]) -> float:
    value = read_json(texts.get("threshold", "null"), "threshold", (int, float))
    if not 0 <= value <= 1:
        raise ValueError(f"its threshold is {value}; expected a probability, from 0 to 1")
    return float(value)


def _verified(texts: Mapping[str, str]) -> dict[str, Any] | None:
    text = texts.get(VERIFIED, NOT_VERIFIED)
    content: dict[str, Any] | None = (
        None if text == NOT_VERIFIED else read_json(text, "figures of its verification", dict)
    )
    return content
