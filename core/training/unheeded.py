"""What is said of options that change nothing of a training, as its mode does not heed them. An error would end
loops over modes.

Invariant: where the same options go to several modes, nothing is said of what one of them heeds, and of the rest
once.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from headstart.common.errors import FrozenWarning
from headstart.common.log import LOG
from headstart.training.job import TrainingJob, may_follow, trained_of
from headstart.training.modes import Mode, mode_of
from headstart.training.options import OPTIONS
from headstart.training.rates import warn_of_scale

_together: ContextVar[tuple[Mode, ...]] = ContextVar("_together", default=())


@contextmanager
def among(modes: Collection[str]) -> Iterator[None]:
    """For trainings of which each is of one of these modes, and which get the same options."""
    token = _together.set(tuple(map(mode_of, modes)))
    try:
        yield
    finally:
        _together.reset(token)


def tell_unheeded(job: TrainingJob) -> None:
    """FrozenWarning for rates and statistics of what is not trained, and a line in the log of a type of features
    where none are stored."""
    modes = _together.get() or (job.mode,)
    if job.mode != modes[0]:
        return  # it has been said
    settings, graphs = job.settings, {mode: job.graph_in(mode) for mode in modes[1:]}
    graphs[job.mode] = job.trained_graph
    warn_of_scale(((trained_of(graph), job.fresh_in(mode)) for mode, graph in graphs.items()), settings.lr_scale)
    named = f"mode{'s' if len(modes) > 1 else ''} {', '.join(repr(mode.name) for mode in modes)}"
    if settings.batch_norm == "train" and not any(map(may_follow, graphs.values())):
        warnings.warn(
            f"batch_norm='train' changes nothing: no batch norm is trained in {named}", FrozenWarning, stacklevel=3
        )
    if settings.dtype != OPTIONS["dtype"].default and not any(mode.cached for mode in modes):
        LOG.info("dtype=%r changes nothing: no features are stored in %s", settings.dtype, named)
