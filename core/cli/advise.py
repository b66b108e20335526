"""`headstart advise`: which trunk, which cut, and how much to train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    DATA,
    DATA_SOURCE,
    DEFAULTS,
    ENGINE_OPTIONS,
    FLAT,
    DataSource,
    EngineOptions,
    Json,
    names_in,
    parameter,
)
from headstart.cli.preparing import data_of, import_quietly
from headstart.cli.rendering import show, show_legend
from headstart.cli.results import attempt, keep_figures
from headstart.common.text import say


@command(
    "headstart advise --data flower_photos",
    "headstart advise --data flower_photos --models efficientnet_lite0,resnet18_half --report advice.html",
    "headstart advise --data flower_photos --models resnet50,resnet50:none --budget 10min",
    "headstart advise --data labels.csv --image file --label kind --group patient --json advice.json",
)
def advise(
    *,
    source: Annotated[DataSource, FLAT] = DATA_SOURCE,
    models: Annotated[
        str | None,
        Parameter(
            help="Comma-separated models, each with its first published weights, with those of a name "
            "(resnet50:imagenet) or with random ones (resnet50:none). (default: efficientnet_lite0 and "
            "resnet18_half, if their weights are at hand)",
            group=DATA,
        ),
    ] = None,
    cuts: Annotated[
        str | None,
        Parameter(help="Comma-separated cuts to look at, in the models that have them. (default: ends of stages)"),
    ] = None,
    budget: Annotated[
        str | None,
        Parameter(help="What training may take: seconds, a time such as 10min, bytes of features, or 2GB,10min."),
    ] = None,
    report: Annotated[Path | None, Parameter(help="Write a page with figures and a map to this file.")] = None,
    batch_size: Annotated[int, parameter("batch_size", help="Images at once.")] = DEFAULTS["batch_size"],
    backend: Annotated[str | None, parameter("backend")] = DEFAULTS["backend"],
    device: Annotated[str, parameter("device")] = DEFAULTS["device"],
    precision: Annotated[str, parameter("precision")] = DEFAULTS["precision"],
    dtype: Annotated[str, parameter("dtype")] = DEFAULTS["dtype"],
    workers: Annotated[int | None, parameter("workers")] = DEFAULTS["workers"],
    engine_options: Annotated[EngineOptions, FLAT] = ENGINE_OPTIONS,
    seed: Annotated[int, parameter("seed", help="Of the parts that are held out.")] = DEFAULTS["seed"],
    json_file: Json = None,
) -> None:
    """Say which trunk, which cut and how much to train, from features, before anything is trained."""
    from headstart.common.outputs import check_outputs
    from headstart.contract import registry
    from headstart.training.advise import advise as run_advise

    check_outputs(file=report)
    limit: float | str | None = budget
    if budget is not None and budget.replace(".", "", 1).isdecimal():
        limit = float(budget)
    engine = engine_options.engine()
    name = registry.choose(backend)
    data = data_of(source)
    import_quietly(name, device, precision)
    advice = run_advise(
        data,
        None if models is None else names_in(models),
        None if cuts is None else names_in(cuts),
        limit,
        size=source.size,
        decode=source.decode,
        backend=name,
        device=device,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        engine=engine,
    )
    line = advice.command(source.words())
    keep_figures(json_file, {**advice.as_dict(), "command": line})
    written = None if report is None else attempt(lambda: advice.report(report, line))
    figures, choices = advice.as_tables()
    show(figures, choices)
    show_legend(figures.legend)
    show(f"{advice.sentence[0].upper()}{advice.sentence[1:]}.")
    say(f"\n    {line}")  # whole, to be copied: a console would break it
    if written is not None:
        show("", f"written to {written}")
