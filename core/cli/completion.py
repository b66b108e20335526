"""`headstart completion`: commands and options completed by a shell."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from headstart.cli.app import build
from headstart.cli.command import command
from headstart.common.errors import SettingError
from headstart.common.text import say

Shell = Literal["bash", "zsh", "fish", "powershell"]


@command("headstart completion install", "headstart completion install --shell zsh")
def install(
    *, shell: Annotated[Shell | None, Parameter(help="Which. (default: the one this is run in)")] = None
) -> None:
    """Install the completion of a shell, which new shells then know.

    For bash, zsh and PowerShell a line that loads it is added to the file that a new shell reads.
    """
    say(f"installed as {build().install_completion(shell=shell or _running())}; new shells know it")


@command("headstart completion show --shell bash > headstart.bash")
def show(
    *, shell: Annotated[Shell | None, Parameter(help="Which. (default: the one this is run in)")] = None
) -> None:
    """Print the completion of a shell."""
    print(build().generate_completion(shell=shell or _running()))


def _running() -> Shell:
    """The shell that this is run in; SettingError where that cannot be told."""
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        return detect_shell()
    except ShellDetectionError:
        raise SettingError(
            "which shell this is cannot be told; expected --shell bash, zsh, fish or powershell"
        ) from None
