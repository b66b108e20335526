"""`headstart sweep`: a grid of heads on one cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    ENGINE_OPTIONS,
    FLAT,
    TRAINING_SOURCE,
    EngineOptions,
    Json,
    SavedFeatures,
    TrainingSource,
    settings_of,
    tried,
    whole_number,
)
from headstart.cli.preparing import ready
from headstart.cli.rendering import show, show_legend
from headstart.cli.results import attempt, attempt_or_stop, keep_figures, test_figures, test_line
from headstart.common.errors import SettingError
from headstart.common.text import counted, extraction_line, folds_line

if TYPE_CHECKING:
    Settings = Any
else:
    Settings = settings_of("sweep")
LEFT_OUT = Settings()

GRID = Group("What is tried", sort_key=1.5)


@command(
    "headstart sweep --data flower_photos --lr 0.0003,0.001,0.003,0.01",
    "headstart sweep --data flower_photos --lr 0.001,0.01 --weight-decay 0,0.01,0.1 --seeds 0,1,2 --out best/",
    "headstart sweep --data flower_photos --folds 5 --out best/",
    "headstart sweep --features saved/ --lr 0.001,0.01,0.1 --optimizer sgd --epochs 30 --schedule cosine",
    "headstart sweep --data flower_photos --weight-decay 0,0.001,0.01,0.1 --halving",
)
def sweep(
    *,
    source: Annotated[TrainingSource, FLAT] = TRAINING_SOURCE,
    features: SavedFeatures = None,
    lr: Annotated[str | None, Parameter(help="Learning rates to try, comma-separated.", group=GRID)] = None,
    weight_decay: Annotated[
        str | None, Parameter(help="Weight decays to try, comma-separated.", group=GRID)
    ] = None,
    seeds: Annotated[
        str | None,
        Parameter(help="Seeds of order and initial weights to try, comma-separated.", group=GRID),
    ] = None,
    halving: Annotated[
        bool,
        Parameter(
            help="End the worse half of the heads of a seed early, again and again, while the better go on.",
            group=GRID,
            show_default=False,
        ),
    ] = False,
    settings: Annotated[Settings, FLAT] = LEFT_OUT,
    engine_options: Annotated[EngineOptions, FLAT] = ENGINE_OPTIONS,
    top: Annotated[int, Parameter(help="How many of the best to show.", converter=whole_number)] = 10,
    out: Annotated[Path | None, Parameter(help="Save the best model to this folder.")] = None,
    json_file: Json = None,
) -> None:
    """Train a grid of heads on one cache, side by side where they are linear, and rank them.

    With neither --lr nor --weight-decay nor --seeds, eight learning rates from 0.0001 to 0.3 are tried.
    """
    from headstart.common.outputs import never_lost
    from headstart.training.sweep import points_of
    from headstart.training.sweep import sweep as run_sweep

    engine = engine_options.engine()
    grid = tried({"lr": lr, "weight_decay": weight_decay, "seeds": seeds}) or None
    points_of(grid)  # before data are read
    (model, train, val, test), values = ready(source, settings, features=features, out=out)
    result = run_sweep(model, train, val, grid=grid, halving=halving, engine=engine, **values)
    all_diverged = result.runs[0].diverged
    saved = attempt(lambda: never_lost(result.best.save, out)) if out is not None and not all_diverged else None
    tested = (
        None
        if test is None or all_diverged
        else attempt_or_stop(lambda: result.best.evaluate(test).as_test(test, train, val))
    )
    keep_figures(json_file, {**result.as_dict(), **test_figures(tested)})
    table = result.as_table(top)
    show(table)
    if table.legend:
        show_legend(table.legend)
    if tested is not None:
        show(test_line(tested, "of the best"))
    if result.extraction is not None:
        show(extraction_line(result.extraction))
    how = f"{result.at_once} at once" if result.at_once > 1 else "one after the other"
    pruned = f"; {sum(result.pruned)} ended early" if halving else ""
    folds = result.runs[0].folds
    of_folds = "" if folds is None else f" x {len(folds.values)} folds"
    show(f"{counted(len(result.runs), 'head')}{of_folds}, {how}{pruned}; {result.seconds:.1f} s")
    if folds is not None and not all_diverged:
        show(f"the best: {folds_line(folds)}; it is trained on all {folds.samples:,} samples")
    if not all_diverged:
        show(*result.conclusion().lines)
    if saved is not None:
        show(f"the best is saved to {saved}")
    if all_diverged and out is not None:
        raise SettingError(f"nothing is saved to {out}: every head diverged; try lower learning rates")
