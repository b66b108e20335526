"""What makes a function a command: its name, its help (the docstring), and examples of its use.

Commands return their exit code, or None for 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyclopts import App, ArgumentCollection, Group

ARGUMENTS = Group("Arguments", sort_key=0)
OTHERS = Group("Options", sort_key=8)
"""those that belong to no group of their own"""
EVERYWHERE = Group("Options of every command", sort_key=9)

WIDTH = 78
"""of an example's line, in a terminal of 80 columns"""

Function = Callable[..., int | None]


class Command(App):
    """A command whose options are put together once. It takes most of the time in which a command line is read
    (0.06 s for `fit`), and they are asked for at least twice: to see which words are options of every command, and
    to read those of the command itself."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._made: list[tuple[tuple[Any, ...], ArgumentCollection]] = []

    def assemble_argument_collection(self, **settings: Any) -> ArgumentCollection:
        """As of any `App`: options that nothing has been read into."""
        key = (settings, self.app_stack.default_parameter)
        for made_for, made in self._made:
            if made_for == key:
                return _unread(made)
        made = super().assemble_argument_collection(**settings)
        self._made.append((key, made))
        return _unread(made)


def _unread(options: ArgumentCollection) -> ArgumentCollection:
    """A copy to read words into. What an option is made of, as a class of its fields, is in the copy, too."""
    copies = options.copy(reset_tokens=True)
    copy_of = {id(option): copy for option, copy in zip(options, copies, strict=True)}
    for copy in copies:
        copy.children = copy.children.copy()
        copy.children[:] = [copy_of[id(child)] for child in copy.children]
    return copies


def command(*examples: str, name: str | None = None) -> Callable[[Function], App]:
    """Makes a command of the function below. `name`: where it is not the function's."""

    def made(function: Function) -> App:
        return Command(
            name=name or function.__name__,
            default_command=function,
            help_epilogue=examples_text(*examples),
            help_flags=["--help"],
            version_flags=[],
            group_arguments=ARGUMENTS,
            group_parameters=OTHERS,
        )

    return made


def examples_text(*lines: str) -> str:
    """As help shows them."""
    return "\n".join(["Examples:", "", *(f"  {part}" for line in lines for part in _in_parts(line))])


def _in_parts(line: str) -> list[str]:
    """A long line as a shell takes it in several, each option with its value; wrapped otherwise, it could not be
    copied."""
    parts, rest = [], line
    while len(rest) > WIDTH:
        end = max(rest.rfind(" --", 3, WIDTH - 1), 0) or rest.rfind(" ", 3, WIDTH - 1)
        if end < 0:
            break
        parts.append(f"{rest[:end]} \\")
        rest = f"  {rest[end + 1 :]}"
    return [*parts, rest]
