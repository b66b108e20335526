"""The figures that Bokeh draws, as the JSON that its script makes them of.

Texts that come from data reach a figure as columns only, which Bokeh shows as they are; titles and axes, in which
it would look for formulas (and load a library from the network to set them), hold none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from bokeh.embed import json_item
from bokeh.models.annotations import Label, Legend, LegendItem
from bokeh.models.filters import BooleanFilter
from bokeh.models.formatters import BasicTickFormatter, NumeralTickFormatter
from bokeh.models.plots import Plot
from bokeh.models.ranges import DataRange1d, Range1d
from bokeh.models.renderers import GlyphRenderer
from bokeh.models.sources import CDSView, ColumnDataSource
from bokeh.models.tickers import AdaptiveTicker, FixedTicker
from bokeh.models.tools import HoverTool
from bokeh.plotting import figure

from headstart.report import figures
from headstart.report.looks import BLUE, GREEN
from headstart.report.series import BreakEven

FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif"
TOOLTIP = """<div style="font:12px/1.45 sans-serif;color:#222;white-space:nowrap"><b>@label</b>, @when<br>
validation: @validation<br>training: @training</div>"""

TITLES = {"epoch": "epoch", "seconds": "seconds of wall time"}


@cache
def curves(measure: str, label: str, axis: str) -> dict[str, Any]:
    """`measure` ("loss", or the name of a headline score), of which the axis says `label`, over `axis` ("epoch",
    "seconds" or "seconds log"), without data and ranges: the page has one table of all points for these figures,
    fills them from it, and hides a row by the filters of their renderers "training", "validation", "interval" (of
    the score of the head that was kept), "kept" (the epochs whose heads were) and "points", whose column "row" has
    its number. Drawn once a process, as no run is in it: nobody may change what comes back."""
    name, _, logarithmic = axis.partition(" ")
    plot = _figure(TITLES[name], label, name=f"{measure} {name}", x_axis_type="log" if logarithmic else "linear")
    for name, style in (
        ("training", {"line_width": 1, "line_dash": "4 3", "line_alpha": 0.6}),
        ("validation", {"line_width": 2}),
    ):
        plot.multi_line("xs", "ys", line_color="colour", name=name, **style, **_empty("xs", "ys", "colour"))
    if measure != "loss":
        plot.segment(
            "x", "low", "x", "high", line_color="colour", line_width=1.5, line_alpha=0.7, name="interval",
            **_empty("x", "low", "high", "colour"),
        )  # fmt: skip
    looks = {"marker": "marker", "line_color": "colour", "fill_color": "fill", "size": "size"}
    texts = ("label", "when", "validation", "training")
    plot.scatter(
        "x", "y", name="kept", marker="circle", size=15, line_width=2.5, line_color="colour", fill_color=None,
        **_empty("x", "y", "colour"),
    )  # fmt: skip
    dots = plot.scatter(
        "x", "y", name="points", **looks, **_empty("x", "y", "colour", "marker", "fill", "size", *texts)
    )
    plot.add_tools(
        HoverTool(renderers=[dots], tooltips=TOOLTIP, limit=6, point_policy="snap_to_data", visible=False)
    )
    plot.x_range, plot.y_range = Range1d(), Range1d()
    if axis == "epoch":
        plot.xaxis.ticker = AdaptiveTicker(min_interval=1, mantissas=[1, 2, 5], base=10)
        plot.xaxis.formatter = NumeralTickFormatter(format="0")
    if logarithmic:
        plot.xaxis.ticker = FixedTicker()  # page.js says where: Bokeh's own are uneven over less than two decades
        plot.xaxis.formatter = NumeralTickFormatter(format="0,0.[000000]")
    return _item(plot)


def _empty(*columns: str) -> dict[str, Any]:
    """A source with these columns and "row", and the filter of its rows."""
    source = ColumnDataSource({name: [] for name in ("row", *columns)})
    return {"source": source, "view": CDSView(filter=BooleanFilter(booleans=[]))}


def break_even(even: BreakEven) -> dict[str, Any]:
    """Seconds over epochs, cached with its extraction and frozen, the crossing marked."""
    plot = _figure("epochs", "seconds in total", name="break-even", height=280)
    last = even.last
    items = []
    for which, name, colour, marker in (
        (1, "frozen", BLUE, "square"),
        (0, "extraction, then cached", GREEN, "circle"),
    ):
        ends = [even.seconds(n)[which] for n in (0, last)]
        drawn: list[GlyphRenderer[Any]] = [plot.line([0, last], ends, line_width=2, line_color=colour)]
        if last <= 40:
            whole = list(range(last + 1))
            seconds = [even.seconds(n)[which] for n in whole]
            drawn.append(plot.scatter(whole, seconds, marker=marker, size=6, color=colour))
        items.append(LegendItem(label=name, renderers=drawn))
    epochs, total = even.crossing
    plot.scatter([epochs], [total], marker="circle", size=15, line_width=2, line_color="#e5484d", fill_color=None)
    top = even.seconds(last)[1]
    # Beside the crossing and below the lines; where it is too low for that, between them.
    right, up = (12, -20) if total > 0.12 * top else (40, 4)
    paid = Label(x=epochs, y=total, x_offset=right, y_offset=up, text=f"after {figures.epochs(even.after)}")
    paid.text_font, paid.text_font_size, paid.text_font_style = FONT, "13px", "bold"
    plot.add_layout(paid)
    plot.add_layout(
        Legend(
            items=items,
            location="top_left",
            border_line_color=None,
            background_fill_alpha=0,
            label_text_font=FONT,
            label_text_font_size="12px",
            margin=4,
        )
    )
    plot.x_range = DataRange1d(start=-0.02 * last, end=1.02 * last)
    plot.y_range = DataRange1d(start=-0.03 * top, end=1.15 * top)
    if last <= 10:
        plot.xaxis.ticker = FixedTicker(ticks=list(range(last + 1)))
    return _item(plot)


def _figure(x: str, y: str, name: str, height: int = 320, **more: Any) -> Any:
    plot = figure(
        **more,
        name=name,
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        # A finger or wheel over a plot scrolls the page until a tool is chosen.
        active_drag=None,
        active_scroll=None,
        toolbar_location="above",
        x_axis_label=x,
        y_axis_label=y,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
    )
    plot.toolbar.logo = None
    plot.title = None
    plot.axis.axis_label_text_font = plot.axis.major_label_text_font = FONT
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_font_size = plot.axis.major_label_text_font_size = "12px"
    plot.axis.minor_tick_line_color = None
    plot.yaxis.formatter = BasicTickFormatter(use_scientific=False)
    return plot


def _item(plot: Plot) -> dict[str, Any]:
    """The figure's JSON, with names that are the same in every process: Bokeh numbers its models as they come."""
    item = json_item(plot)
    names: dict[str, str] = {}

    def renamed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: numbered(entry) if key in ("id", "root_id", "docid") else renamed(entry)
                for key, entry in value.items()
            }
        if isinstance(value, list | tuple):
            return [renamed(entry) for entry in value]
        return value

    def numbered(id: Any) -> Any:
        return names.setdefault(id, f"m{len(names)}") if isinstance(id, str) else renamed(id)

    document = item["doc"]
    return {
        "doc": renamed(document),
        "root_id": numbered(item["root_id"]),
        "target_id": None,
        "version": document["version"],
    }
