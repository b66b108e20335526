"""What a worker does, an actor of Ray's or a process of this machine: opens what it was sent, builds the trunk,
and works on tasks.

Invariant: an error is an answer, and goes back as it is; what a task has computed before it is stored.
"""

from __future__ import annotations

import pickle
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from headstart.common.errors import EngineError, HeadstartError
from headstart.common.heap import keep_memory
from headstart.common.log import handed_to
from headstart.contract import devices
from headstart.data import Dataset
from headstart.features.engines.planning import Task
from headstart.features.engines.ray_host import sees
from headstart.features.engines.shown import Places
from headstart.features.engines.work import Extracting, Job, Outcome
from headstart.models import Model

R = TypeVar("R")
TELL_SECONDS = 0.3


@dataclass(frozen=True)
class Parcel:
    """What every worker is sent, beside the parameters."""

    make: Callable[..., Extracting]
    model: Model
    """without parameters"""
    data: Dataset
    device: str
    must_be_gpu: bool
    digests: tuple[str, ...]
    root: Path
    token: tuple[str, str] | None
    """the path of a file in the store, and what is in it; None where workers need not see the store"""

    @classmethod
    def of(
        cls,
        job: Job,
        make: Callable[..., Extracting],
        device: str,
        *,
        must_be_gpu: bool = False,
        token: tuple[str, str] | None = None,
    ) -> Parcel:
        return cls(
            make=make,
            model=replace(job.model, params={}),
            data=job.data,
            device=device,
            must_be_gpu=must_be_gpu,
            digests=tuple(job.digests),
            root=job.root,
            token=token,
        )


class TaskWorker:
    """An extraction in one process."""

    def __init__(
        self, parcel: bytes, params: Mapping[str, np.ndarray], node: str, is_ended: Callable[[], bool]
    ) -> None:
        """`parcel`: a pickled `Parcel`. EngineError where the store is not in sight, or another version runs here;
        whatever building the trunk raises."""
        keep_memory()
        sent: Parcel = pickle.loads(parcel)
        if sent.token is not None and not sees(*sent.token)[1]:
            raise EngineError(unseen_store(sent.root, [node]))
        self._data, self._places = sent.data, Places(sent.data.ids)
        self._extractor = sent.make(replace(sent.model, params=params), device=sent.device)
        if tuple(self._extractor.digests()) != sent.digests:
            raise EngineError("another version of headstart is installed here: its features have other keys")
        self.device = self._extractor.get_ready()
        if sent.must_be_gpu and self.device == devices.CPU:
            raise EngineError("the framework finds no GPU that it computes on")
        self._is_ended = is_ended

    def work(self, task: Task) -> Iterator[int | Outcome]:
        """Compute and store the features of a task: how many samples are done, a few times a second, and the
        outcome in the end."""
        lines: list[tuple[int, str]] = []
        error: Exception | None = None
        shards: Mapping[str, list[str]] = {}
        with warnings.catch_warnings(record=True) as caught, handed_to(lambda *line: lines.append(line)):
            warnings.simplefilter("always")
            try:
                shards = yield from _seldom(
                    self._extractor.work_on(self._data, self._places, task, self._is_ended)
                )
            except Exception as raised:
                error = raised
        yield Outcome(
            shards=shards,
            error=None if error is None else pickled(error),
            warnings=[(told.category, str(told.message)) for told in caught if _is_ours(told.category)],
            lines=lines,
        )


def _seldom(steps: Generator[int, None, R]) -> Generator[int, None, R]:
    """The same, without what comes too soon to be worth a message."""
    last = time.monotonic()
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            result: R = end.value
            return result
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            yield done


def unseen_store(root: Path, nodes: list[str]) -> str:
    """What to say where nodes do not see the store."""
    return (
        f"the store {root} is a folder of the machine that extracts, and {', '.join(nodes)} "
        f"{'does' if len(nodes) == 1 else 'do'} not see it; set HEADSTART_CACHE (cache=) to a folder that all of "
        "the cluster's machines see under the same path, or name a URL that all of them reach, by which features "
        "come here: push='s3://bucket/prefix' (--push)"
    )


def pickled(error: Exception) -> bytes:
    """An error as it goes to another process; its text alone, where it cannot go there itself."""
    if not isinstance(error, HeadstartError):
        error.add_note("".join(traceback.format_exception(error)).strip())
    try:
        raw = pickle.dumps(error)
        pickle.loads(raw)
    except Exception:
        return pickle.dumps(EngineError(f"{type(error).__name__}: {error}"))
    return raw


def _is_ours(category: type[Warning]) -> bool:
    return category.__module__ == HeadstartError.__module__
