"""Extraction by Ray Core: the driver, which hands out tasks and asks the store what is done.

Invariants:

* What passes through Ray is the parameters and the data set's paths, each once, lists of ids, and names of shards.
* A task is done when the store shows its rows. Whatever else happens, an error, a worker or a machine that dies,
what
  the store does not show is submitted again, so that a death costs what its task had not stored yet: a shard at
  most.
* As many tasks are in flight as there are workers.
* However it ends, no worker is left; one that is interrupted stores what it has computed first.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.common.environment import SAID_OF_WAITING, kept_to
from headstart.common.errors import EngineError, HeadstartError, SettingError, StoreError
from headstart.common.log import LOG
from headstart.common.sizes import binary_size
from headstart.contract import devices
from headstart.features.engines.ledger import ATTEMPTS, DEATHS, Attempt, Ledger
from headstart.features.engines.ray_cluster import (
    Crew,
    blind_nodes,
    crew_for,
    imported,
    joined,
    machines,
    sent_as_code,
    token_in,
)
from headstart.features.engines.ray_host import Host
from headstart.features.engines.settings import Ray
from headstart.features.engines.work import Job, Outcome, Progress, Way
from headstart.features.engines.worker import Parcel, unseen_store

POLL_SECONDS = 0.5
START_SECONDS = 600.0
"""in which the first worker must have started"""
END_SECONDS = 15.0
"""that interrupted workers have for storing what they have computed"""
MOST_NBYTES = 4096
"""of a sample in a pickled data set: a path, a label and an id. More is the sample itself"""


def run(settings: Ray, job: Job) -> Generator[Progress, None, None]:
    """Have all that the job lacks extracted; yields how far it is, several times a second.

    Raises what a task's error is, three times the same; EngineError where the cluster, the store or the data are
    not fit for it, or no worker is left; KeyboardInterrupt.
    """
    ray = imported()  # before anything is pickled
    sent, params = _parcel(ray, job), dict(job.model.params)
    nbytes = len(sent(job.by_folder, job.device, False, ("", ""))) + sum(value.nbytes for value in params.values())
    with joined(settings, nbytes) as ray, sent_as_code(ray), token_in(job.folder) as token:
        crew = crew_for(settings, job.device, machines(ray))
        way, shown = _way(job, blind_nodes(ray, token))
        device = devices.CPU if job.device == devices.AUTO and not crew.gpus else job.device
        parcel = ray.put(sent(way, device, crew.gpus > 0, token if way is job.by_folder else None))
        driver = Driver(ray, crew, job, way, parcel, ray.put(params))
        LOG.info(
            "Ray: %s; %s task%s; %s sent once; features come by %s",
            crew,
            f"{len(driver.ledger.queue):,}",
            "" if len(driver.ledger.queue) == 1 else "s",
            binary_size(nbytes),
            shown,
        )
        try:
            yield from driver.work()
        finally:
            driver.leave()


def _way(job: Job, blind: list[str]) -> tuple[Way, str]:
    """How shards come, and how the log says it. `blind`: the nodes that do not see the store. EngineError where
    there is no way from them."""
    if not blind:
        return job.by_folder, str(job.by_folder)
    if job.by_url is None:
        raise EngineError(unseen_store(job.root, blind))
    return job.by_url, f"{job.by_url}, as {job.root} is not seen by {', '.join(blind)}"


def _parcel(ray: Any, job: Job) -> Any:
    """What makes the bytes that every worker is sent. SettingError for data that lie in this process's memory, or
    that cannot be sent."""
    if job.data.in_memory:
        raise SettingError(
            f"engine=hs.Ray(...): the samples of {job.data.name} lie in this process's memory, and samples do not "
            "travel through Ray; expected data that are read from files which all of the cluster's machines see"
        )

    def made(way: Way, device: str, must_be_gpu: bool, token: tuple[str, str] | None) -> bytes:
        parcel = Parcel.of(job, way.make, device, must_be_gpu=must_be_gpu, token=token)
        try:
            raw: bytes = ray.cloudpickle.dumps(parcel)
        except Exception as error:
            raise SettingError(
                f"engine=hs.Ray(...): {job.model.name} and {job.data.name} cannot be sent to other processes "
                f"({type(error).__name__}: {error})"
            ) from error
        if len(raw) > MOST_NBYTES * (256 + len(job.data)):
            raise SettingError(
                f"engine=hs.Ray(...): sent to other processes, {job.data.name} takes {binary_size(len(raw))}, "
                f"{len(raw) // max(1, len(job.data)):,} bytes a sample, so it holds the samples themselves, which "
                "do not travel through Ray; expected data that are read from files"
            )
        return raw

    return made


@dataclass(eq=False)
class Worker:
    """An actor, from its start to its end."""

    actor: Any
    begun: Any
    """the answer to its start; None once it has come"""
    node: str = "a node"
    attempt: Attempt | None = None
    """that it works on"""
    number: int = 0
    """of tasks that it was sent"""
    answers: Any = None
    """of the last one, as they come: numbers of samples done, and the `Outcome`"""


class Driver:
    """Hands out tasks."""

    def __init__(self, ray: Any, crew: Crew, job: Job, way: Way, parcel: Any, params: Any) -> None:
        self.ledger = Ledger(job, way, job.plan(crew.workers))
        self._ray, self._crew, self._way = ray, crew, way
        self._sent = parcel, params
        self._workers: list[Worker] = []
        self._free_places = crew.workers
        """of workers that may be started"""
        self._failed_starts = 0
        """one after the other"""
        self._reason = ""
        """why the last worker was lost"""
        self._since = time.monotonic()
        """when a worker was last there"""
        self._actor = ray.remote(
            num_cpus=crew.cpus,
            num_gpus=crew.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(Host)

    def work(self) -> Iterator[Progress]:
        """Until the store shows all."""
        ray = self._ray
        ledger = self.ledger
        while ledger.queue or any(worker.attempt for worker in self._workers):
            self._fill()
            waited_for = [worker.begun or worker.answers for worker in self._workers]
            waited_for = [answers for answers in waited_for if answers is not None]
            ready, _ = ray.wait(waited_for, num_returns=1, timeout=POLL_SECONDS)
            ready, _ = ray.wait(waited_for, num_returns=len(waited_for), timeout=0)
            before = ledger.samples
            for worker in list(self._workers):
                if worker.begun in ready:
                    self._has_begun(worker)
                elif worker.answers in ready:
                    self._has_answered(worker)
            alive = sum(worker.begun is None for worker in self._workers)
            yield ledger.progress(before, alive)

    # ---- workers

    def _fill(self) -> None:
        """Give every free worker a task, and start workers as long as there is work for them. EngineError where
        there is none and will be none."""
        for worker in self._workers:
            if worker.begun is None and worker.attempt is None and self.ledger.queue:
                worker.attempt = self.ledger.queue.popleft()
                worker.number += 1
                work = worker.actor.work.options(num_returns="streaming")
                worker.answers = work.remote(worker.number, worker.attempt.task)
        starting = sum(worker.begun is not None for worker in self._workers)
        while self._free_places and starting < len(self.ledger.queue):
            self._free_places -= 1
            starting += 1
            self._start()
        if any(worker.begun is None for worker in self._workers):
            self._since = time.monotonic()
        elif not self._workers:
            raise EngineError(f"no worker of Ray's is left: {self._reason}")
        elif time.monotonic() - self._since > START_SECONDS:
            free = self._ray.available_resources()
            raise EngineError(
                f"no worker of Ray's started in {START_SECONDS:.0f} s; each waits for {self._crew.gpus:g} GPUs "
                f"and {self._crew.cpus} CPUs, and the cluster's other work leaves {free.get('GPU', 0):g} and "
                f"{free.get('CPU', 0):g}"
            )

    def _start(self) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if (name.startswith("HEADSTART_") and name not in self._way.nodes_own) or name in SAID_OF_WAITING
        }
        environment |= kept_to(self._crew.cpus, os.environ | environment)
        actor = self._actor.remote()
        begun = actor.start.remote(environment, str(Path.cwd()), *self._sent)
        self._workers.append(Worker(actor, begun))

    def _has_begun(self, worker: Worker) -> None:
        try:
            worker.node, wrong, device = self._ray.get(worker.begun)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            self._lose(worker, f"a worker ended as it started: {_first_line(error)}")
            if self._failed_starts < ATTEMPTS * self._crew.workers:
                self._free_places += 1
            return
        if wrong:
            self._lose(worker, f"on {worker.node} no worker starts: {wrong}")
            return
        self._failed_starts, worker.begun = 0, None
        LOG.debug("Ray: a worker on %s, device %s", worker.node, device)

    def _lose(self, worker: Worker, reason: str) -> None:
        """Do without a worker from now on."""
        self._reason = reason
        LOG.warning("Ray: %s", reason)
        self._workers.remove(worker)
        with suppress(Exception):
            self._ray.kill(worker.actor, no_restart=True)

    # ---- tasks

    def _has_answered(self, worker: Worker) -> None:
        attempt = worker.attempt
        assert attempt is not None
        try:
            said: int | Outcome = self._ray.get(next(worker.answers))
        except self._ray.exceptions.RayTaskError as error:
            said = Outcome(error=pickle.dumps(EngineError(f"on {worker.node}: {_first_line(error)}")))
        except self._ray.exceptions.RayError as error:
            worker.attempt = worker.answers = None
            self._has_died(worker, attempt, error)
            return
        if isinstance(said, int):
            self.ledger.count(attempt, said)
            return
        worker.attempt = worker.answers = None
        try:
            self._fill()  # it works while its shards are brought here
        except KeyboardInterrupt:  # these shards are finished
            self.ledger.bring(attempt.task, said)
            raise
        self.ledger.settle(attempt, said, f"on {worker.node}")

    def _has_died(self, worker: Worker, attempt: Attempt, error: Exception) -> None:
        """What the store shows of its task was done."""
        count, deaths = self.ledger.died(attempt)
        again = f"{count:,} of its task's {len(attempt.task):,} samples are submitted again"
        self._lose(worker, f"a worker on {worker.node} has died ({_first_line(error)}); {again}")
        if deaths >= DEATHS:
            raise EngineError(
                f"{deaths} workers of Ray's have died in the same task, the last on {worker.node}: "
                f"{_first_line(error)}"
            )
        self._free_places += 1

    # ---- the end

    def leave(self) -> None:
        """End all workers, those in the middle of a task when they have stored what they have."""
        ray = self._ray
        tasks = {}
        try:
            for worker in self._workers:
                # An interrupt may have come when a task was taken, and not sent yet.
                if worker.attempt is not None and worker.answers is not None:
                    with suppress(ray.exceptions.RayError):  # it is dead
                        ray.cancel(worker.answers)
                    tasks[worker.actor.last.remote(worker.number)] = worker.attempt.task
            if tasks:
                for answer in ray.wait(list(tasks), num_returns=len(tasks), timeout=END_SECONDS)[0]:
                    with suppress(ray.exceptions.RayError, StoreError):
                        said = ray.get(answer)
                        if isinstance(said, Outcome):
                            self.ledger.bring(tasks[answer], said)
        finally:
            for worker in self._workers:
                with suppress(Exception):
                    ray.kill(worker.actor, no_restart=True)
            self._workers = []


def _first_line(error: Exception) -> str:
    """What Ray says of an end."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, HeadstartError) or not lines:
        return lines[0] if lines else type(error).__name__
    return lines[-1] if type(error).__name__.startswith("RayTaskError") else lines[0]
