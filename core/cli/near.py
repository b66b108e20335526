"""Near duplicates in a command: the options, and what is said before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Annotated, Any

from cyclopts import Parameter

from headstart.cli.options import DATA, number
from headstart.common.log import LOG


@dataclass(frozen=True)
class NearOptions:
    """Whether to look for pictures that are nearly the same."""

    near_duplicates: Annotated[
        bool,
        Parameter(
            help="Say which pictures are nearly the same, by their features, within the data and across the "
            "split; nothing is left out for it.",
            group=DATA,
            show_default=False,
        ),
    ] = False
    near_threshold: Annotated[
        float | None,
        Parameter(
            help="From which cosine on two pictures are near duplicates. (default: 0.95)",
            converter=number,
            group=DATA,
        ),
    ] = None


NEAR_OPTIONS = NearOptions()


def near_figures(options: NearOptions, model: Any, *data: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Look for them where that is asked for, and say them; what --json has of it. `settings`: of the command, of
    which the extraction takes those it knows."""
    if not options.near_duplicates and options.near_threshold is None:
        return {}
    from headstart.features.near_duplicates import THRESHOLD, near_duplicates

    threshold = THRESHOLD if options.near_threshold is None else options.near_threshold
    about = {
        name: settings[name] for name in ("backend", "device", "precision", "dtype", "workers") if name in settings
    }
    # What the cache is filled with anyway, where features are trained on.
    cut = settings.get("cut") if settings.get("mode") in ("cached", "staged") else None
    result = near_duplicates(model, *data, threshold=threshold, cut=cut, **about)
    for line in result.lines():
        LOG.log(WARNING if len(result) else INFO, "%s", line)
    return {"near_duplicates": result.as_dict()}
