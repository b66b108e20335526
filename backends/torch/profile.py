"""torch's own profiler, with its trace where TensorBoard's plugin and torch's viewers look for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

import torch
from torch.autograd import profiler as legacy
from torch.profiler import ProfilerActivity, tensorboard_trace_handler

from headstart.common.errors import ProfileError


@contextmanager
def profile(folder: Path) -> Iterator[None]:
    """Write `<host>_<process>.<time>.pt.trace.json.gz`. Packed: an epoch's operators are many and alike."""
    # A second profiler does not fail to start: it ends the first, and then the process.
    if legacy._is_profiler_enabled:
        raise ProfileError("torch", "one is running already")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells standard error of each start and stop
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    handler = tensorboard_trace_handler(str(folder), use_gzip=True)
    # One cycle: there are no others to keep. Some versions warn of the difference unless this is said.
    known = signature(torch.profiler.profile).parameters
    more = {"acc_events": True} if "acc_events" in known else {}
    with torch.profiler.profile(activities=activities, on_trace_ready=handler, **more):
        yield
