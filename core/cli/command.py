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
    return "\n".join(["Examples:", "", *(f"  {line}" for line in lines)])
