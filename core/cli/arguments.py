"""A command's arguments: what is wrong with them before they are parsed, and in which words a mistake is told.

Invariant: an empty argument, of a variable of the shell that is not set, never becomes the folder one is in, nor
the name of an option the value of another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import pairwise

from cyclopts import (
    App,
    Argument,
    ConsumeMultipleError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from headstart.common.errors import HeadstartError, SettingError, UnknownNameError
from headstart.common.log import LOG
from headstart.common.text import printable

MISTAKE = 2  # the exit code
NEAR = 0.7
"""how alike the letters of two options are, of 1: --save is no --size, nor --run an --lr"""
WRITTEN = ("--out", "--save", "--csv", "--json")
"""where results go, by command; the first that a command has is meant"""
MEANT = {
    **dict.fromkeys(("--save", "--out", "--output", "--out-dir", "--output-dir", "--save-dir", "-o"), WRITTEN),
    "--run": ("--out",),  # of a run that is not there yet
    "--model": ("--run",),
    **dict.fromkeys(("--load", "--checkpoint", "--ckpt"), ("--run", "--weights")),
    **dict.fromkeys(("--learning-rate", "--rate"), ("--lr",)),
    **dict.fromkeys(("--bs", "--batch"), ("--batch-size",)),
    "--label-column": ("--label",),
    "--image-column": ("--image",),
    "--group-column": ("--group",),
}
"""what other programs call an option, and this one's other commands -> what it is called here"""
COMMANDS = {
    **dict.fromkeys(("train", "finetune", "fine-tune", "probe", "run"), "fit"),
    **dict.fromkeys(("test", "eval", "validate", "score"), "evaluate"),
    **dict.fromkeys(("classify", "infer", "inference"), "predict"),
    **dict.fromkeys(("embed", "features"), "extract"),
    **dict.fromkeys(("convert", "save"), "export"),
    **dict.fromkeys(("tune", "search"), "sweep"),
    **dict.fromkeys(("list", "ls", "zoo"), "models"),
    **dict.fromkeys(("bench", "benchmark"), "compare"),
    **dict.fromkeys(("check", "info", "env"), "doctor"),
}
"""what other programs call a command -> what it is called here"""
ELSEWHERE = {
    "help": "; `headstart --help` lists them, and each takes --help",
    "serve": "; examples/serve/serve.py serves what `headstart export` writes",
}
"""what is no command, and where it is instead"""

EMPTY_OPTION = re.compile(r"--[\w-]+=")
NONE_OR_ONE = (0, 1)
"""of the values of an option that means something without any"""
TEXTS = frozenset(
    {
        "--separator",
        "--image",
        "--label",
        "--split-column",
        "--group",
        "--weight-column",
        "--fold-column",
        "--only",
    }
)
"""options whose value may be a hyphen: what stands between labels, names of columns and classes"""
COMMAS = "comma-separated"
"""in the help of options that take several values"""
SEVERAL = frozenset({"--class-weights", "--pos-weight", "--lr-scale", "--augment"})
"""options that take several values in other words"""
NO_PATH = "- stands for no file here: /dev/stdout is the standard output, and ./- a file of that name"


def check_arguments(arguments: Sequence[str]) -> None:
    """SettingError for what no command can mean: an empty argument, "-", a current folder that is gone."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument or EMPTY_OPTION.fullmatch(argument):
            option = argument[:-1] or (before if before.startswith("--") else "")
            what = f"the value of {option} is empty" if option else "an argument is empty"
            raise SettingError(f"{what}; is a variable of the shell not set?")
        option, _, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        if value == "-" and option not in TEXTS:
            raise SettingError(f"{option} -: {NO_PATH}" if option.startswith("--") and option != "--" else NO_PATH)
    try:
        os.getcwd()  # noqa: PTH109 - only whether there is one
    except OSError as error:
        raise SettingError(
            f"the current folder cannot be found ({error.strerror}); cd to one that is there"
        ) from error


def check_values(takers: Iterable[App], words: Sequence[str]) -> None:
    """SettingError where an option's value has been forgotten, so that the next option stands in its place.
    `takers`: whatever takes options of this command line."""
    pairs = [pair for pair in pairwise(_before_the_rest(words)) if all(word.startswith("--") for word in pair)]
    if not pairs:  # as in nearly all; what options there are takes 0.06 s to find out
        return
    arguments = _options_of(takers)
    options = {name for argument in arguments for name in argument.names if name.startswith("--")}
    flags = {
        name
        for argument in arguments
        for name in argument.names
        if argument.hint is bool or argument.parameter.consume_multiple == NONE_OR_ONE
    }
    for option, value in pairs:
        if option in options - flags and value in options:
            raise SettingError(f"{option} needs a value; {option}={value} if that is one")


def warn_of_repeated(takers: Iterable[App], words: Sequence[str]) -> None:
    """A warning for an option of several values that is given twice, with two values: the last counts, where other
    programs take both (`--label cat --label dog`). `takers`: as of `check_values`."""
    given: dict[str, list[str]] = {}
    before = list(_before_the_rest(words))
    for word, following in zip(before, [*before[1:], ""], strict=True):
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            given.setdefault(option, []).append(value if equals else following)
    repeated = {option: values for option, values in given.items() if len(set(values)) > 1}
    if not repeated:
        return
    for argument in _options_of(takers):
        if argument.name not in SEVERAL and COMMAS not in (argument.parameter.help or "").lower():
            continue
        for option in repeated.keys() & set(argument.names):
            LOG.warning(
                "%s is given %s times, and the last counts: %s; several values have commas between them",
                option, len(given[option]), printable(given[option][-1]),
            )  # fmt: skip


def _options_of(takers: Iterable[App]) -> list[Argument]:
    return [argument for app in takers if app.default_command for argument in app.assemble_argument_collection()]


def _before_the_rest(words: Sequence[str]) -> Iterator[str]:
    """The words before "--", behind which there are no options."""
    for word in words:
        if word == "--":
            return
        yield word


def _unknown(word: str, allowed: Iterable[Argument]) -> str:
    """An option that is none, and which was probably meant: by what it says, then by its letters."""
    option = word.partition("=")[0]
    names = [name for argument in allowed for name in argument.names if name.startswith("--")]
    meant = [name for name in MEANT.get(option.replace("_", "-"), ()) if name in names]
    letters = {name.removeprefix("--"): name for name in names}
    near = get_close_matches(option.removeprefix("--"), letters, 1, cutoff=NEAR)
    likely = meant[0] if meant else letters[near[0]] if near else None
    return f"unknown option {option}{'' if likely is None else f'; did you mean {likely}?'}"


def _what_it_is(argument: Argument) -> str:
    """Of an argument that is told by its place, in a few words what to give; "" of an option."""
    first = (argument.parameter.help or "").partition(". ")[0].rstrip(".")
    if argument.name.startswith("-") or not first:
        return ""
    return f"; expected {first[0].lower()}{first[1:]}"


def _instead(word: str, app: App | None) -> str:
    """What an argument probably is that a command has no place for: data, which are named by an option, one of
    several values, or the question what the command takes."""
    if app is None or not app.default_command:
        return ""
    takers = app.assemble_argument_collection()
    if word == "help":
        return "; did you mean --help?"
    if any("--data" in argument.names for argument in takers) and os.path.lexists(word):
        return f"; did you mean --data {word}?"
    if all(argument.name.startswith(("-", "*")) for argument in takers):  # "*": fields of a class of options
        return "; several values of an option have commas between them"
    return ""


def mistake(error: Exception) -> str:
    """A line that says what is wrong with a command line."""
    match error:
        case ConsumeMultipleError(keyword=str() as option):
            return f"{option} takes one value at most"
        case MissingArgumentError(keyword=str() as option):
            return f"{option} needs a value"
        case MissingArgumentError(unused_tokens=[first, *_], app=App() as app) if first.startswith("--"):
            return _unknown(first, app.assemble_argument_collection())  # what it lacks is probably this one
        case MissingArgumentError(argument=Argument() as argument):
            return f"{argument.name} is missing{_what_it_is(argument)}"
        case UnusedCliTokensError(unused_tokens=[first, *_]):
            return f"{first!r} is one argument too many{_instead(first, error.app)}"
        case UnknownCommandError(unused_tokens=[first, *_]) if first.startswith("-"):
            return f"unknown option {first}"
        case UnknownCommandError(unused_tokens=[first, *_], app=App() as app):
            known = [name for name in app if not name.startswith("-")]
            if first in ELSEWHERE:
                return f"there is no command {first!r}{ELSEWHERE[first]}"
            return str(UnknownNameError("command", first, known, meant=COMMANDS.get(first)))
        case UnknownOptionError(token=token, argument_collection=allowed):
            return _unknown(token.keyword or token.value, allowed)
        case CycloptsError(__cause__=HeadstartError() as own):
            return str(own)
        case _:
            text = str(error)
            return text[0].lower() + text[1:] if text.startswith("Invalid") else text
