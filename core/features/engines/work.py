"""What an extraction and an engine say to each other.

Invariant: what comes back of a task is names of shards and what was said on the way, never a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from headstart.data import Dataset
from headstart.features.engines.planning import Task
from headstart.features.engines.shown import Places, Shards
from headstart.models import Model


class Extracting(Protocol):
    """An extraction in the process that computes."""

    def get_ready(self) -> str:
        """Build what computes; returns the device. Raises what is wrong with it here."""

    def digests(self) -> list[str]:
        """Of all trunk keys."""

    def make_room(self, task: Task) -> None:
        """For the features of a task, in a store that is this process's business. DiskSpaceError and other errors
        of a store where there is none."""

    def work_on(
        self, data: Dataset, places: Places, task: Task, ended: Callable[[], bool]
    ) -> Generator[int, None, dict[str, list[str]]]:
        """Compute and store a task's features, until it is `ended`; yields how many samples are done. Returns the
        shards."""


class Way(Protocol):
    """How shards come from the workers into the store of the process that asks."""

    @property
    def make(self) -> Callable[..., Extracting]:
        """Makes it anew in each worker, of the model and its `device`; pickles."""

    @property
    def nodes_own(self) -> tuple[str, ...]:
        """Environment variables that are not sent to the workers."""

    @property
    def doubt(self) -> str:
        """What may be wrong where the store does not show what a task's answer names."""

    def bring(self, task: Task, shards: Shards) -> None:
        """Have the shards of an ended task in the store. RemoteError where they do not come."""

    def look_for(self, task: Task) -> None:
        """Have in the store what is left of a task whose answer names no shards, as its worker has died, say."""


@dataclass(frozen=True)
class Job:
    """An extraction that is to be done elsewhere."""

    model: Model
    data: Dataset
    digests: Sequence[str]
    """of the trunk keys"""
    root: Path
    """of the store"""
    folder: Path
    """in it, that exists and may be written into"""
    device: str
    plan: Callable[[int], list[Task]]
    """the tasks for so many workers"""
    by_folder: Way
    """where all nodes see the store"""
    by_url: Way | None
    """where some do not; None where there is no URL"""
    left: Callable[[Task, Shards], list[Task]]
    """what of a task the store does not show; it is looked for in these shards first"""


@dataclass(frozen=True)
class Outcome:
    """What a worker answers to a task."""

    shards: Shards = field(default_factory=dict)
    error: bytes | None = None
    """pickled: what ended it"""
    warnings: Sequence[tuple[type[Warning], str]] = ()
    lines: Sequence[tuple[int, str]] = ()
    """of the log, with their levels"""


@dataclass(frozen=True)
class Progress:
    """How far an engine has come."""

    samples: int
    """more than before; fewer where a worker died"""
    stored: int
    """samples in all whose task is done"""
    alive: int
    """workers"""
    again: int
    """tasks that were submitted again"""
