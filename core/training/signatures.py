"""The signatures of the functions that take options, made of the options' fields.

The functions end in `**options: Unpack[FitOptions]`, for editors and type checkers; `FitOptions` and its kin stand
in `keywords`, which `write_keywords` writes from the fields. What `inspect` and `help(hs.fit)` show is made here,
when the function is defined.

Not signatures that are written out, and held equal to the fields by a test: a new option would have to be written
into each of the five, and handed on by each.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from headstart.common.errors import UnknownOptionError
from headstart.training.option import Option
from headstart.training.options import fields_for

F = TypeVar("F", bound=Callable[..., Any])
KEYWORDS: dict[str, tuple[str, ...]] = {}
"""of each function that is `documented`, all that it takes by name only"""


def documented(function: F) -> F:
    """Give `function`, which ends in `**options`, the signature and the docstring that its options make. It is
    called as before."""
    signature, options = inspect.signature(function), fields_for(function.__name__)
    parameters = [of for of in signature.parameters.values() if of.kind is not of.VAR_KEYWORD]
    for option in options:
        parameters.append(
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default_of(function.__name__),
                annotation=option.annotation,
            )
        )
    KEYWORDS[function.__name__] = tuple(of.name for of in parameters if of.kind is of.KEYWORD_ONLY)
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__doc__ = "\n".join(
        [inspect.cleandoc(function.__doc__ or ""), "", *_described(options, function.__name__), ""]
    )
    return function


def _described(options: tuple[Option, ...], function: str) -> Iterator[str]:
    """The lines of a docstring that say what each option is, by group."""
    group = ""
    for option in options:
        if option.group != group:
            yield from (("", option.group) if group else (option.group,))
            group = option.group
        unset = f"None: {option.unset}." if option.unset else ""
        words = (f"`{option.name}={option.default_of(function)!r}`:", option.help, unset, option.more)
        text = " ".join(word for word in words if word)
        lines = textwrap.wrap(text, 96, break_on_hyphens=False, break_long_words=False)
        yield from (("  " if line is lines[0] else "    ") + line for line in lines)


def with_defaults(function: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords with the defaults of `function` that are not those of most functions."""
    others = {of.name: of.defaults[function] for of in fields_for(function) if function in of.defaults}
    return others | dict(keywords)


def check_keywords(function: str, keywords: Mapping[str, object]) -> None:
    """UnknownOptionError, which names the near one, for a keyword that the `documented` function of this name has
    not."""
    for name in keywords:
        if name not in KEYWORDS[function]:
            raise UnknownOptionError("setting", name, KEYWORDS[function], f" of {function}")
