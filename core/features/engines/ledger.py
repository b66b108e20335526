"""The tasks of a job, as an engine hands them out: which are left, how many samples are done, and what becomes of
one that ends in an error, or with its worker.

Invariant: a task is done when the store shows its rows, whatever was answered. What it does not show is in the
queue again.
"""

from __future__ import annotations

import pickle
import warnings
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from headstart.common.errors import EngineError, RemoteError
from headstart.common.log import LOG
from headstart.features.engines.planning import Task
from headstart.features.engines.work import Job, Outcome, Progress, Way

ATTEMPTS = 3
"""of a task that ends in the same error"""
DEATHS = 8
"""of workers in one task, one after the other, without a row more in the store: the task is what kills them"""


@dataclass(eq=False)
class Attempt:
    """A task, and what has become of it so far."""

    task: Task
    errors: tuple[str, ...] = ()
    """that it has ended in, one after the other"""
    deaths: int = 0
    """of workers, without a row more in the store"""
    counted: int = 0
    """samples that are done, as its worker has said last, or the store"""


class Ledger:
    """All tasks of a job."""

    def __init__(self, job: Job, way: Way, tasks: Iterable[Task]) -> None:
        self.queue = deque(Attempt(task) for task in tasks)
        """those that nobody works on"""
        self.samples = 0
        """that are done, as far as is known"""
        self._job, self._way = job, way
        self._stored = self._again = 0
        self._said: set[object] = set()

    def progress(self, before: int, alive: int) -> Progress:
        """How far it is, since so many samples were done, with so many workers."""
        return Progress(samples=self.samples - before, stored=self._stored, alive=alive, again=self._again)

    def count(self, attempt: Attempt, done: int) -> None:
        """So many samples of a task are done."""
        self.samples += done - attempt.counted
        attempt.counted = done

    def settle(self, attempt: Attempt, outcome: Outcome, where: str) -> None:
        """A worker has answered, who is `where`: "on a node". Raises what the task has ended in for the third
        time, and EngineError where the store does not show what was written."""
        self._tell(outcome)
        raised = self.bring(attempt.task, outcome)
        left = self._job.left(attempt.task, outcome.shards)
        self.count(attempt, len(attempt.task) - sum(map(len, left)))
        self._stored += attempt.counted
        errors = attempt.errors
        if raised is not None:
            errors = (*errors, _kind(raised))
            if errors.count(errors[-1]) >= ATTEMPTS:
                raise raised
        elif left:
            errors = (*errors, "")
            if errors.count("") >= ATTEMPTS:
                raise EngineError(f"the store does not show what was written {where}; {self._way.doubt}")
        self._submit_again(left, errors, 0)

    def died(self, attempt: Attempt) -> tuple[int, int]:
        """A worker has died in a task, of which what the store shows was done. Returns how many samples are not,
        and which death without a row more this was."""
        self._way.look_for(attempt.task)
        left = self._job.left(attempt.task, {})
        count = sum(map(len, left))
        self.count(attempt, len(attempt.task) - count)
        self._stored += attempt.counted
        deaths = attempt.deaths + 1 if count == len(attempt.task) else 1
        self._submit_again(left, attempt.errors, deaths)
        return count, deaths

    def bring(self, task: Task, outcome: Outcome) -> Exception | None:
        """Have in the store what a task's answer names. Returns what has gone wrong: there, or before."""
        raised: Exception | None = None if outcome.error is None else pickle.loads(outcome.error)
        try:
            self._way.bring(task, outcome.shards)
            if raised is not None and not isinstance(raised, RemoteError):
                self._way.look_for(task)
        except RemoteError as error:
            return raised or error
        return raised

    def _submit_again(self, left: list[Task], errors: tuple[str, ...], deaths: int) -> None:
        self._again += len(left)
        self.queue.extendleft(Attempt(task, errors, deaths) for task in left)

    def _tell(self, outcome: Outcome) -> None:
        """What a worker has said, once, however many say it."""
        for category, text in outcome.warnings:
            if text not in self._said:
                self._said.add(text)
                warnings.warn(text, category, stacklevel=2)
        for level, line in outcome.lines:
            if line not in self._said:
                self._said.add(line)
                LOG.log(level, "%s", line)


def _kind(error: Exception) -> str:
    """What is the same for equal errors: their text, which of a URL's names the object and so is left out."""
    return "RemoteError" if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
