"""What the experiments share: their options, a part of a data set, and where what they write goes.

An experiment is run as a module from the folder above (`python -m examples.cached_block --small`), prints its
table and writes an HTML report into `--out`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import headstart as hs
from headstart.common.text import accuracy_text
from headstart.data.sources import are_photographs
from headstart.models import architecture
from headstart.models.default_model import PHOTOGRAPHS, SHIPPED, default_model


def options(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that every experiment has. `doc`: its module's docstring; `name`: its folder's."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--small", action="store_true", help="minutes on two cores: fewer, smaller images and a small network")
    add("--data", help="digits, cifar10, flowers, or a folder that holds a folder a class")
    add("--samples", type=int, help="images a class")
    add("--epochs", type=int, help="epochs of training")
    add("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    add("--backend", help="torch, keras or jax (default: HEADSTART_BACKEND, or the only one installed)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--out", type=Path, default=Path("examples-out", name), help="folder to write to (default: %(default)s)")
    return parser


def small_trunk(args: argparse.Namespace, data: str) -> tuple[str, str]:
    """Model and weights of the small form, for data of this name: of `--trunk`, else what the commands take."""
    name = args.trunk or default_model(photographs=are_photographs(data)).name
    return name, next(iter(architecture(name).weights))


def with_trunk(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same, with the option that `small_trunk` reads."""
    parser.add_argument(
        "--trunk",
        choices=(PHOTOGRAPHS, SHIPPED),
        help="of the small form (default: the first on photographs if its weights are here, "
        "`pip install 'headstart[weights]'`, else the second)",
    )
    return parser


def part(
    data: hs.data.Dataset, each: int | None = None, classes: Sequence[str] | None = None, seed: int = 0
) -> hs.data.Dataset:
    """Up to `each` images of every class, drawn from `seed`; of `classes` only, where they are given."""
    if classes is not None:
        data = data.only(classes)
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(np.flatnonzero(data.labels == k))[:each] for k in range(len(data.classes))]
    return data.subset(np.sort(np.concatenate(chosen)))


def start(main: Callable[[], object]) -> None:
    """Run an experiment from the command line, where a mistake is one line and no traceback."""
    try:
        main()
    except hs.HeadstartError as error:
        sys.exit(f"error: {error}")


def finish(comparison: hs.Comparison, out: Path) -> None:
    """Print a line a run, and write the report to `out`/report.html."""
    width = max(len(row["label"]) for row in comparison.rows)
    print(f"\n{'':{width}}   val acc   s/epoch   extract     total     trained")
    for row in comparison.rows:
        seconds = row["seconds_per_epoch"]["total"], row["extraction_seconds"], row["total_seconds"]
        times = "".join(f"{value:9.3g}s" for value in seconds)
        right = accuracy_text(row, "val_accuracy")
        print(f"{row['label']:{width}}  {right:>8}{times}{row['parameters']['trained']:12,}")
    print(f"\nreport: {comparison.report(out / 'report.html')}")


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which is unknown (nan) of a single value."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def percent(values: Sequence[float]) -> str:
    """Shares as "75.5 ± 1.1 %"."""
    mean, error = mean_error(values)
    return f"{mean:.1%}" if np.isnan(error) else f"{100 * mean:.1f} ± {100 * error:.1f} %"


def beyond(better: Sequence[float], worse: Sequence[float]) -> bool:
    """Whether `better` is above `worse` by more than the noise: a one-sided paired t test at 5 %. In pairs, since
    both saw the same data for each seed, and what that draw does to both is no noise. Never so of one seed."""
    from scipy.stats import t

    mean, error = mean_error(np.subtract(better, worse).tolist())
    return len(better) > 1 and mean > max(0.0, error * t.ppf(0.95, len(better) - 1))


def print_table(rows: Sequence[Sequence[object]]) -> None:
    """Columns in line; the first row is the head."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def dots(title: str, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """A Bokeh figure: for every group (such as a data set) and way, the mean of its accuracies and a line two
    standard errors long to either side."""
    from bokeh.models import FactorRange, NumeralTickFormatter
    from bokeh.palettes import Category10
    from bokeh.plotting import figure

    places = [(group, way) for group, ways in groups.items() for way in ways]
    colours = {way: Category10[10][i % 10] for i, way in enumerate(dict.fromkeys(way for _, way in places))}
    chart = figure(
        title=title, x_range=FactorRange(*places), height=420, sizing_mode="stretch_width", tools="save"
    )
    for group, way in places:
        mean, error = mean_error(groups[group][way])
        reach = 0.0 if np.isnan(error) else 2 * error
        x = [(group, way)] * 2
        chart.line(x, [mean - reach, mean + reach], color=colours[way], line_width=3)
        chart.scatter(x[:1], [mean], color=colours[way], size=10)
    chart.xaxis.major_label_orientation = 1.2
    chart.yaxis.formatter = NumeralTickFormatter(format="0 %")
    chart.xgrid.visible = False
    return chart


def write_page(path: Path, title: str, *figures: Any) -> Path:
    """Bokeh figures, one below the other, as an HTML page that needs no network."""
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.resources import INLINE

    path.parent.mkdir(parents=True, exist_ok=True)
    page = file_html(column(*figures, sizing_mode="stretch_width"), INLINE, title)
    path.write_text(page, "utf-8")
    return path
