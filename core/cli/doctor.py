"""`headstart doctor`: what is installed, what is there, and what to mend."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import Json, positive_number
from headstart.cli.rendering import show
from headstart.cli.results import write_figures


@command("headstart doctor", "headstart doctor --json doctor.json", "headstart doctor --seconds 300")
def doctor(
    *,
    seconds: Annotated[
        int,
        Parameter(help="How long a framework may take to answer.", converter=positive_number),
    ] = 60,
    json_file: Json = None,
) -> int | None:
    """Look at what is installed, at the machine, the cache and the network, and say how to mend it.

    Each finding is ok, a note (worth knowing, such as an extra that is not installed) or a problem, which keeps
    something from working. The exit code is 1 where there is a problem, else 0. Frameworks are asked in processes
    of their own, so that a broken one is a finding. The output can be pasted in an issue: it holds names of
    folders, and no passwords or tokens.
    """
    from headstart.cli.checks import checkup
    from headstart.cli.findings import PROBLEM

    result = checkup(seconds)
    write_figures(json_file, result.as_dict())
    show(result.as_table(), result.line())
    return 1 if result.count(PROBLEM) else None
