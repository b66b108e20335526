"""What makes a function a command: its name, its help (the docstring), and examples of its use.

Commands return their exit code, or None for 0.
"""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import App, Group

ARGUMENTS = Group("Arguments", sort_key=0)
OTHERS = Group("Options", sort_key=8)
"""those that belong to no group of their own"""
EVERYWHERE = Group("Options of every command", sort_key=9)

WIDTH = 78
"""of an example's line, in a terminal of 80 columns"""

Function = Callable[..., int | None]


def command(*examples: str, name: str | None = None) -> Callable[[Function], App]:
    """Makes a command of the function below. `name`: where it is not the function's."""

    def made(function: Function) -> App:
        return App(
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
