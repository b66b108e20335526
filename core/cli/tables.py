"""How figures look on a terminal: tables, lines and bars. Results go to standard output, progress to standard
error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headstart.common.log import LOG
from headstart.common.text import (
    accuracy_text,
    nbytes_text,
    printable,
    printable_lines,
    seconds_text,
    time_text,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

LEGEND = """s/epoch: seconds of an epoch with its validation, the median without the first, in which compilers run.
data: waiting for images; trunk: the frozen part; head: what is trained. extract: seconds to fill the cache, once;
* it was full already. pays off: the number of epochs from which the cache has saved time."""

PLAN_LEGEND = """extract: until the store has all features, once. epoch: training the head behind the cut and
validating it, on the cache; uncached: with the trunk run for every image. pays off: the number of epochs from
which the cache has saved time. ~ not measured, between cuts that were; * not all at once in memory: streamed."""


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


def table_of(*columns: str, right: Sequence[str | int] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        is_right = column in right or i in right
        table.add_column(column, justify="right" if is_right else "left", overflow="fold")
    return table


def comparison_table(name: str, versions: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = table_of(
        "mode",
        "val acc",
        "s/epoch",
        "data",
        "trunk",
        "head",
        "extract",
        "speed-up",
        "total",
        "pays off",
        right=range(1, 10),
    )
    table.padding = 0  # all ten columns fit a terminal of 80
    table.title = f"{name} ({', '.join(f'{k} {v}' for k, v in versions.items())})"
    table.title_justify = "left"
    for row in rows:
        epoch = row["seconds_per_epoch"]
        extraction = "-"
        if row["features_made_by"]:
            extraction = seconds_text(row["extraction_seconds"])
            if not row["extracted"]:
                extraction += "*"
        speedup, pays_off = row["speedup_over_frozen"], row["pays_off_after_epochs"]
        table.add_row(
            row["mode"],
            accuracy_text(row, "val_accuracy"),
            *(seconds_text(epoch[phase]) if epoch[phase] else "-" for phase in ("total", "data", "trunk", "head")),
            extraction,
            "-" if speedup is None else f"{speedup:.0f}x" if speedup >= 10 else f"{speedup:.1f}x",
            f"{row['total_seconds']:.1f}",
            "-" if pays_off is None else f"{pays_off} epoch{'s' if pays_off > 1 else ''}",
        )
    return table


def sweep_table(rows: Sequence[Mapping[str, float]], top: int) -> Table:
    """The best `top` rows of `Sweep.table`."""
    axes = [name for name in ("lr", "weight_decay", "seed") if rows and name in rows[0]]
    table = table_of(*axes, "val acc", "val loss", "train acc", "train loss", right=range(len(axes) + 4))
    for row in rows[: max(1, top)]:
        table.add_row(
            *(f"{row[name]:g}" for name in axes),
            accuracy_text(row, "val_accuracy"),
            f"{row['val_loss']:.4f}",
            accuracy_text(row, "accuracy"),
            f"{row['loss']:.4f}",
        )
    return table


def plan_table(rows: Sequence[Mapping[str, Any]], epochs: int) -> Table:
    """The rows of `Plan.table`."""
    table = table_of(
        "cut",
        "cache",
        "extract",
        "epoch",
        "uncached",
        "pays off",
        f"{epochs} epochs",
        "uncached",
        right=range(1, 8),
    )
    table.padding = (0, 1, 0, 0)
    for row in rows:
        pays_off = row["pays_off_after_epochs"]
        table.add_row(
            row["cut"] + ("" if row["measured"] else " ~"),
            nbytes_text(row["nbytes"]) + ("*" if row["where"] == "disk" else ""),
            time_text(row["extraction_seconds"]) if row["missing"] else "there",
            time_text(row["cached_epoch_seconds"]),
            time_text(row["uncached_epoch_seconds"]),
            "never" if pays_off is None else f"{pays_off} epoch{'s' if pays_off > 1 else ''}",
            time_text(row["total_seconds"]),
            time_text(row["uncached_total_seconds"]),
        )
    return table


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
