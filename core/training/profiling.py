"""`profile=DIR`: the framework's own profiler, around one epoch of each stage and its validation. It is the second
epoch, as code is compiled in the first; or the only one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from headstart.contract import registry
from headstart.contract.description import PROFILE
from headstart.contract.protocol import Backend
from headstart.training.observers import About, Observer
from headstart.training.settings import checked_folder
from headstart.training.stage import EpochEnd, Stage


class Profiler(Observer):
    """Writes a trace for each stage into a folder of the stage's name."""

    def __init__(self, backend: Backend, folder: str | Path) -> None:
        """SettingError where the folder cannot be written, MissingAbilityError without the ability "profile"."""
        registry.describe(backend.name).require(backend.name, PROFILE)
        self.backend, self.root = backend, checked_folder("profile", folder)
        self.folder, self.profiled = self.root, 0
        """of the stage: where its trace goes, and which epoch is profiled, from 0"""
        self.recording: AbstractContextManager[None] | None = None
        self.trained = False

    @property
    def output(self) -> str:
        return f"the profiler's trace in {self.folder}"

    @property
    def essential(self) -> bool:
        """Until something has been trained: an error loses nothing before that."""
        return not self.trained

    def stage(self, stage: Stage, about: About) -> None:
        self.folder, self.profiled = self.root / stage.name, min(1, stage.epochs - 1)

    def begin(self, epoch: int) -> None:
        if epoch == self.profiled:
            recording = self.backend.profile(checked_folder("profile", self.folder))
            recording.__enter__()
            self.recording = recording

    def epoch(self, end: EpochEnd) -> None:
        self.trained = True
        self._finish(None)

    def end(self, error: BaseException | None) -> None:
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        recording, self.recording = self.recording, None
        if recording is not None:
            trace = None if error is None else error.__traceback__
            recording.__exit__(None if error is None else type(error), error, trace)
