"""`headstart plan`: what caching will cost and save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    DEFAULTS,
    FLAT,
    TRAINING_SOURCE,
    Json,
    TrainingSource,
    names_in,
    parameter,
    settings_of,
)
from headstart.cli.preparing import ready
from headstart.cli.rendering import show, show_legend
from headstart.cli.results import keep_figures
from headstart.common.text import nbytes_text, printable, time_text

if TYPE_CHECKING:
    from headstart.training.plan import Plan

    Settings = Any
else:
    Settings = settings_of("plan")
LEFT_OUT = Settings()


@command(
    "headstart plan --data flower_photos --model resnet50",
    "headstart plan --data flower_photos --model resnet50 --budget 2GB,10min --epochs 20",
    "headstart plan --data flower_photos --cuts layer3,avgpool --precision bfloat16",
)
def plan(
    *,
    source: Annotated[TrainingSource, FLAT] = TRAINING_SOURCE,
    cuts: Annotated[
        str | None, Parameter(help="Comma-separated cuts, each of them measured. (default: all legal ones)")
    ] = None,
    budget: Annotated[
        str | None,
        Parameter(help="What the cache may take: bytes such as 2GB, a time such as 10min, or 2GB,10min."),
    ] = None,
    settings: Annotated[Settings, FLAT] = LEFT_OUT,
    seed: Annotated[int, parameter("seed", help="Of the split.")] = DEFAULTS["seed"],
    json_file: Json = None,
) -> None:
    """Predict what caching at each cut costs and saves, from a few batches; with --budget, the best cut."""
    from headstart.training.plan import Budget
    from headstart.training.plan import plan as run_plan
    from headstart.training.tables import PLAN_LEGEND

    limits = Budget.parse(budget)
    named = names_in(cuts) if cuts is not None else None
    (model, train, val, _), values = ready(source, settings, seed=seed, cuts=named or ())
    result = run_plan(model, train, val, cuts=named, budget=limits, **values)
    keep_figures(json_file, result.as_dict())
    facts = result.facts
    size, weights = result.model["preprocess"]["size"], printable(model.weights or "random")
    show(
        f"{printable(train.name)}: {facts['samples']} images; {model.name} ({weights}) at {size} px; "
        f"{values['backend']} on {facts['device']}, {facts['precision']}; decoding "
        f"{facts['decode_images_per_second']:.0f} images/s",
        result.as_table(),
    )
    show_legend(PLAN_LEGEND)
    if budget is not None:
        show(_verdict(result, budget))


def _verdict(result: Plan, budget: str) -> str:
    """Which cut is the best within the budget, in a line."""
    best = result.best
    if best is None:
        return (
            f"within {budget} no cut fits: the smallest cache takes "
            f"{nbytes_text(min(plan.nbytes for plan in result.rows))}, the shortest time is "
            f"{time_text(min(plan.total_seconds for plan in result.rows))}"
        )
    return (
        f"within {budget}, --cut {best.cut} trains the most: {nbytes_text(best.nbytes)}, {best.epochs} epochs "
        f"in {time_text(best.total_seconds)} instead of {time_text(best.uncached_total_seconds)}"
    )
