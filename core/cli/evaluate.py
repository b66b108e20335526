"""`headstart evaluate`: how well a trained model does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    DATA,
    DATA_HELP,
    DEFAULTS,
    FLAT,
    TABLE_OPTIONS,
    BatchSize,
    Json,
    OnError,
    TableOptions,
    Truncated,
    parameter,
)
from headstart.cli.preparing import import_quietly
from headstart.cli.rendering import show, show_legend
from headstart.cli.results import keep_figures


@command(
    "headstart evaluate --run run/ --data test/",
    "headstart evaluate --run run/ --data test/ --json scores.json",
    "headstart evaluate --run another/ --data test/ --cached",
)
def evaluate(
    *,
    run: Annotated[Path, Parameter(help="Folder that `headstart fit --out` wrote.")],
    data: Annotated[str, Parameter(help=DATA_HELP, group=DATA)],
    on_error: OnError = "raise",
    truncated: Truncated = "raise",
    table: Annotated[TableOptions, FLAT] = TABLE_OPTIONS,
    backend: Annotated[str | None, parameter("backend")] = DEFAULTS["backend"],
    device: Annotated[str, parameter("device")] = DEFAULTS["device"],
    precision: Annotated[str, parameter("precision")] = DEFAULTS["precision"],
    batch_size: BatchSize = DEFAULTS["batch_size"],
    cached: Annotated[
        bool,
        Parameter(
            help="Take the trunk's features from the cache, and keep there what it lacks, as training does: "
            "another head on it is evaluated at once. They are rounded as in training.",
            negative=(),
            show_default=False,
        ),
    ] = False,
    json_file: Json = None,
) -> None:
    """Say how well a trained model does on labelled images: scores, of each class too, confusions."""
    from headstart.training.evaluate import evaluate as run_evaluate
    from headstart.training.evaluate import labelled
    from headstart.training.saved import load

    trained = load(run, backend)
    samples = labelled(trained, data, on_error, table.columns(), truncated)
    import_quietly(trained.backend, device, precision)
    result = run_evaluate(
        trained, samples, cached=cached, device=device, precision=precision, batch_size=batch_size
    )
    keep_figures(json_file, {"run": str(run), "data": samples.name, **result.as_dict()})
    tables = result.as_tables()
    show(*tables)
    show_legend(tables[0].legend)
