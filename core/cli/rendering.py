"""How results look on a terminal: tables, lines and bars. The one place that knows how they are drawn; what they
say comes from the results. Results go to standard output, progress to standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headstart.common.log import LOG
from headstart.common.text import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from headstart.common.table import Table


def cell(text: str) -> Text:
    """`printable` in a table, where square brackets are no markup either."""
    from rich.text import Text

    return Text(printable(text))


def console_for_tables() -> Console:
    from rich.console import Console

    # Tables keep their columns in logs and pipes, where no terminal says how wide it is. Names come from anywhere:
    # nothing in them is markup, or an emoji's name.
    width = None if sys.stdout.isatty() else 120
    console = Console(soft_wrap=False, width=width, markup=False, emoji=False)
    console.push_render_hook(_Printable())  # type: ignore[arg-type] # a subclass would import rich at once
    return console


class _Printable:
    """Makes whatever a console is to show printable, as it comes out of tables and lines."""

    def process_renderables(self, renderables: Sequence[Any]) -> list[Any]:
        return [_Cleaned(renderable) for renderable in renderables]


class _Cleaned:
    def __init__(self, renderable: Any) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: Any) -> Iterator[Any]:
        from rich.segment import Segment

        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)


def render(table: Table) -> RichTable:
    """A table as it is drawn: with the columns that say something."""
    from rich import box
    from rich.table import Table as RichTable

    table = table.without_empty_columns()
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.padding = (0, (table.gap + 1) // 2, 0, table.gap // 2)
    shown.title = table.title or None
    shown.title_justify = "left"
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if place in table.right else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(cell, row))
    return shown


def show(*parts: Table | str) -> None:
    """Print results: tables, and lines, in this order."""
    console = console_for_tables()
    for part in parts:
        if isinstance(part, str):
            console.print(part, highlight=False)
        else:
            console.print(render(part))
            if part.note:
                console.print(f"{part.note}\n", highlight=False)


def show_legend(text: str) -> None:
    """Print what the columns of tables mean."""
    console_for_tables().print(text, style="dim", highlight=False)


class Live:
    """Shows a comparison's events: a bar on a terminal, and what is logged, of which a line an epoch."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.what = ""

    def __enter__(self) -> Live:
        if sys.stderr.isatty() and LOG.isEnabledFor(logging.INFO):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self.bar.start()
            self.task = self.bar.add_task("starting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.remove_task(self.task)
            self.bar.stop()

    def listen(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "mode":
            self.what = f"{event['backend']} {event['mode']}"
        elif kind == "backend":
            self.what = f"{event['backend']} starting"
        elif kind == "log":
            LOG.log(event["level"], "%s %s", self.what, event["line"])
        if self.bar is not None and kind in ("mode", "backend"):
            self.bar.update(self.task, description=self.what, total=None, completed=0)
        if self.bar is not None and kind == "progress":
            self.bar.update(
                self.task,
                description=printable(f"{self.what}: {event['what']}"),
                total=event["total"],
                completed=event["done"],
            )
