"""`headstart compare`: the modes beside each other, in every backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    FLAT,
    TRAINING_SOURCE,
    Json,
    TrainingSource,
    head_of,
    names_in,
    settings_of,
    values_of,
)
from headstart.cli.preparing import note_random_weights
from headstart.cli.rendering import Live, show, show_legend
from headstart.cli.results import keep_figures, test_line
from headstart.common.text import printable, say

if TYPE_CHECKING:
    from headstart.training.comparison import Comparison

    Settings = Any
else:
    Settings = settings_of("compare")
LEFT_OUT = Settings()


@command(
    "headstart compare",
    "headstart compare --data flower_photos --modes frozen,cached --cut layer4.0 --epochs 5",
    "headstart compare --backends torch,jax --device cpu --json figures.json",
)
def compare(
    *,
    source: Annotated[TrainingSource, FLAT] = TRAINING_SOURCE,
    backends: Annotated[str | None, Parameter(help="Comma-separated. (default: all installed)")] = None,
    modes: Annotated[str, Parameter(help="Comma-separated.")] = "scratch,full,frozen,cached,staged",
    settings: Annotated[Settings, FLAT] = LEFT_OUT,
    out: Annotated[Path, Parameter(help="Folder for compare.json and report.html.")] = Path("headstart-compare"),
    json_file: Json = None,
) -> int | None:
    """Compare the modes in every installed backend: scores, seconds by phase, speed-up, break-even.

    Same weights, same data, same order, same start in each. Every backend runs in a process of its own.
    """
    from headstart.training.compare import compare as run_compare

    values, head = values_of(settings), head_of(source.head)
    note_random_weights(source)
    with Live() as live:
        comparison = run_compare(
            source.data,
            out=out,
            listener=live.listen,
            backends=names_in(backends) if backends is not None else (),
            modes=names_in(modes),
            model=source.model,
            weights=source.weights,
            size=source.size,
            decode=source.decode,
            head=head,
            split=source.split,
            on_error=source.on_error,
            truncated=source.truncated,
            split_by=source.split_by,
            val=source.val,
            test=source.test,
            only=source.classes(),
            columns=source.columns(),
            **values,
        )
    keep_figures(json_file, comparison)
    return tell_comparison(comparison, out)


def tell_comparison(comparison: Comparison, out: Path) -> int | None:
    """Print what a comparison has found, and what has failed; the exit code."""
    from headstart.report.scores import outputs_text
    from headstart.training.tables import comparison_legend

    about, model, tables = comparison["data"], comparison["model"], comparison.as_tables()
    show(
        f"{about['name']}: {about['train']:,} training and {about['val']:,} validation images, "
        f"{outputs_text(about['task'], len(about['classes']))}; {model['name']} ({model['weights'] or 'random'}) "
        f"at {model['preprocess']['size']} px",
        *(f"skipped {printable(file)}: {printable(reason)}" for file, reason in about["skipped"]),
        *tables,
    )
    if tables:
        show_legend(comparison_legend(comparison, tables))
    tested = [row for row in comparison["rows"] if row.get("test")]
    show(*(f"{row['label']}, {test_line(row['test'])}" for row in tested))
    if tables:
        show(*comparison.conclusion().lines)
    files = ["compare.json", *(["report.html"] if tables else [])]
    show(f"written to {' and '.join(str(out / file) for file in files)}")
    for name, error in comparison["errors"].items():
        say(f"error: {name}: {error['message']}", err=True)
    if not comparison["errors"]:
        return None
    mistakes = all(error["type"] != "crash" for error in comparison["errors"].values())
    return 2 if mistakes else 1
