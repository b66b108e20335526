"""Secrets are taken out of whatever is written, raised or said: credentials in URLs, tokens, and what stands
behind an option that is called a password. One function, so that a report, an error and a line of a log agree.

Invariant: text without anything of the kind is returned as it is, the same object.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HIDDEN = "***"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "AWS_SECRET_ACCESS_KEY")
LEAST = 8  # characters of a variable's value; a shorter one would be found in ordinary words
NAMED = frozenset(("classes", "labels", "values", "probabilities", "image"))
"""entries of results below which the names of classes and of pictures stand"""

_KINDS = r"token|secret|passw(?:or)?d|passphrase|api[_-]?key|(?:access|secret)[_-]?key|signature"
_NAMES = rf"(?:[\w-]*[_-])?(?:{_KINDS})"
_USERINFO = re.compile(r"(?<=://)[^\s/?#'\"<>]+@")
_QUERY = re.compile(rf"([?&;]{_NAMES}=)[^\s&#'\"<>]+", re.IGNORECASE)
_OPTION = re.compile(rf"((?:^|(?<=\s))--{_NAMES}[= ])(?!-)\S+", re.IGNORECASE)
_ASSIGNED = re.compile(r"(\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY)=)[^\s'\"]+")  # variables
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{20,})")
_BEARER = re.compile(r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SIGNS = ("://", "=", "-", "hf_", "gh", "AKIA", "earer")
_IS_OPTION = re.compile(rf"--{_NAMES}", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text with `***` in the place of each secret in it."""
    for variable in VARIABLES:
        value = os.environ.get(variable, "")
        if len(value) >= LEAST and value in text:
            text = text.replace(value, HIDDEN)
    if not any(sign in text for sign in _SIGNS):
        return text
    text = _USERINFO.sub(f"{HIDDEN}@", text)
    for pattern in (_QUERY, _OPTION, _ASSIGNED, _BEARER):
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def names_in(results: Any, inside: bool = False) -> Iterator[str]:
    """The names of classes and pictures in JSON-able results. They are somebody's own, and what results are joined
    by with other tables: whatever one looks like ("flag bearer uniforms", "sk-castle-in-the-evening-01.png"), it
    is no secret, and stays as it is. An address is none of them. `inside`: whether all of `results` is below an
    entry of `NAMED`."""
    if isinstance(results, str):
        if inside and "://" not in results:
            yield results
    elif isinstance(results, Mapping):
        for key, entry in results.items():
            yield from names_in(key, inside)
            yield from names_in(entry, inside or key in NAMED)
    elif isinstance(results, list | tuple):
        for entry in results:
            yield from names_in(entry, inside)


def redacted_command(arguments: Iterable[str]) -> list[str]:
    """A command line, in which the secret may be the argument behind the option."""
    safe: list[str] = []
    hide = False
    for argument in arguments:
        if hide and not argument.startswith("-"):
            safe.append(HIDDEN)
            hide = False
            continue
        hide = _IS_OPTION.fullmatch(argument) is not None
        safe.append(redacted(argument))
    return safe


def redact_raised(error: BaseException | None) -> None:
    """Take the secrets out of an exception, and out of those that it came from: a traceback shows them all. What
    holds none is not touched."""
    seen: set[int] = set()
    chain = [error]
    while chain:
        raised = chain.pop()
        if raised is None or id(raised) in seen:
            continue
        seen.add(id(raised))
        chain += [raised.__cause__, raised.__context__, *getattr(raised, "exceptions", ())]
        with contextlib.suppress(Exception):  # what cannot be said cannot be read in a traceback, either
            _redact(raised)


def _redact(error: BaseException) -> None:
    notes = getattr(error, "__notes__", [])
    if all(redacted(text) == text for text in (str(error), repr(error), *notes)):
        return
    notes[:] = map(redacted, notes)
    error.args = tuple(redacted(argument) if isinstance(argument, str) else argument for argument in error.args)
    for name in ("filename", "filename2", "strerror"):
        if isinstance(value := getattr(error, name, None), str):
            setattr(error, name, redacted(value))
    kind = type(error)
    if redacted(str(error)) != str(error):  # its class makes the text of something else
        error.__class__ = type(kind.__name__, (kind,), {"__str__": _said, "__module__": kind.__module__})


def _said(self: BaseException) -> str:
    return redacted(super(type(self), self).__str__())
