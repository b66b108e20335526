"""`headstart fit`: train a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.near import NEAR_OPTIONS, NearOptions, near_figures
from headstart.cli.options import (
    ENGINE_OPTIONS,
    FLAT,
    TRAINING_SOURCE,
    EngineOptions,
    Json,
    SavedFeatures,
    TrainingSource,
    settings_of,
)
from headstart.cli.preparing import ready
from headstart.cli.rendering import show, show_legend
from headstart.cli.results import attempt, attempt_or_stop, keep_figures, test_figures, test_line
from headstart.common.log import result_follows
from headstart.common.text import extraction_line, placement_line

if TYPE_CHECKING:
    Settings = Any
else:
    Settings = settings_of("fit")
LEFT_OUT = Settings()


@command(
    "headstart fit --data flower_photos --out run/",
    "headstart fit --data flower_photos --mode full --augment flip,crop --lr-scale 0.1 --out run/",
    "HEADSTART_BACKEND=jax headstart fit --cut layer4.0 --epochs 20 --schedule cosine",
    "headstart fit --data flower_photos --augment flip,crop --views 4 --memory 512MB",
    "headstart fit --data flower_photos --mode full --cut input",
    "headstart fit --features saved/ --model resnet50",
    "headstart fit --data flower_photos --solver logistic --out run/",
    "headstart fit --data flower_photos --folds 5 --out run/",
    "headstart fit --data flower_photos --mode full --checkpoint kept/",
    "headstart fit --data flower_photos --mode full --resume kept/",
)
def fit(
    *,
    source: Annotated[TrainingSource, FLAT] = TRAINING_SOURCE,
    features: SavedFeatures = None,
    settings: Annotated[Settings, FLAT] = LEFT_OUT,
    engine_options: Annotated[EngineOptions, FLAT] = ENGINE_OPTIONS,
    near: Annotated[NearOptions, FLAT] = NEAR_OPTIONS,
    out: Annotated[
        Path | None, Parameter(help="Save the trained model to this folder, with a report, report.html.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Train a model on images with classes, labels or numbers, and say how well it does."""
    from headstart.common.outputs import never_lost, outdated
    from headstart.training.comparison import comparison
    from headstart.training.fit import fit as run_fit
    from headstart.training.tables import comparison_legend, folds_table

    engine = engine_options.engine()
    (model, train, val, test), values = ready(source, settings, features=features, out=out)
    of_near = near_figures(near, model, train, val, test, settings=values)
    with result_follows():
        run = run_fit(model, train, val, engine=engine, **values)
    figures = comparison([run])
    # Saved first: printing may fail, and what was trained must not depend on it.
    written: list[str | None] = []
    of_run = None
    if out is not None:

        def saved() -> str:
            folder = never_lost(run.save, out)  # where that fails, a run that was there stays, with its report
            outdated(out / "report.html")
            return f"saved to {folder}"

        of_run = attempt(saved)

    def reported() -> str | None:
        if out is None or of_run is None:
            return None
        return attempt(lambda: figures.report(out / "report.html").name)

    report, tested = reported(), None  # now already: scoring the test data may take long, and be killed
    if test is not None:
        tested = attempt_or_stop(lambda: run.evaluate(test).as_test(test, train, val))
    if tested is not None:  # its report has the scores of the test data, too
        figures.rows[0]["test"] = tested
        report = reported()
    if of_run is not None:  # it is saved, whatever becomes of its report
        written.append(of_run if report is None else f"{of_run}, with {report}")
    facts = {**figures.single(), **test_figures(tested), **of_near}
    if keep_figures(json_file, facts) is not None and out is None and json_file and json_file.suffix:
        written.append(attempt(lambda: f"written to {figures.report(json_file.with_suffix('.html'))}"))
    tables = figures.as_tables()
    show(*tables)
    show_legend(comparison_legend(figures, tables))
    if run.folds is not None:
        of_folds = folds_table(run.folds, len(train), run.best_epoch)
        show(of_folds)
        show_legend(of_folds.legend)
    if tested is not None:
        show(test_line(tested))
    if run.extraction is not None:
        show(extraction_line(run.extraction), placement_line(run.settings["features"]))
    if out is None:
        written.append("the trained model is not kept; --out run/ saves it, with a report")
    doubt = figures.conclusion().doubt  # what the score is, the table has said
    show(*(line for line in (doubt, *written) if line))
