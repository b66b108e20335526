"""Extraction by processes of this machine, one for each of several devices: the driver, which hands out tasks and
asks the store what is done.

Invariants:

* A process sees one card alone, and keeps to its share of the CPUs, before it imports a framework.
* A task is done when the store shows its rows. A process that dies costs what its task had not stored yet; that is
  handed out again, and another process takes its place.
* However it ends, no process is left; one that is interrupted stores what it has computed first. One whose driver
  is gone does so too.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any

from headstart.common.environment import for_child, kept_to
from headstart.common.errors import EngineError, SettingError
from headstart.common.log import LOG
from headstart.common.machine import cpus
from headstart.common.text import end_text
from headstart.contract import devices, registry
from headstart.contract.opening import NO_CARDS
from headstart.features.engines.ledger import DEATHS, Attempt, Ledger
from headstart.features.engines.process_worker import DEAD, DONE, END, OUTCOME, READY, WRONG
from headstart.features.engines.settings import Processes
from headstart.features.engines.work import Job, Progress
from headstart.features.engines.worker import Parcel

POLL_SECONDS = 0.5
END_SECONDS = 15.0
"""that interrupted processes have for storing what they have computed"""
WORDS_LENGTH = 2000
WORKER = "headstart.features.engines.process_worker"
LISTING = "headstart.features.engines.device_listing"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def found(backend: str, precision: str) -> tuple[str, ...]:
    """The devices of the best kind that a backend finds and computes on. It is asked in a process of its own, so
    that this one lies on none of the cards. EngineError where that process ends otherwise."""
    quiet = registry.describe(backend).quiet
    command = [sys.executable, "-P", "-m", LISTING, backend, precision]
    done = subprocess.run(command, capture_output=True, env=for_child(quiet), stdin=subprocess.DEVNULL)
    if done.returncode:
        words = " ".join(done.stderr[-WORDS_LENGTH:].decode(errors="replace").split())
        raise EngineError(f"devices='all': {backend} was asked for its devices, and ended: {words}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def run(settings: Processes, backend: str, job: Job) -> Generator[Progress, None, None]:
    """Have all that the job lacks extracted; yields how far it is, several times a second.

    Raises what a task's error is, three times the same; EngineError where a process cannot start, or a task ends
    every process that works on it; KeyboardInterrupt.
    """
    assert settings.devices is not None
    driver = Driver(settings.devices, registry.describe(backend).quiet, job)
    try:
        yield from driver.work()
    finally:
        driver.leave()


class Process:
    """One that extracts on a device, and the thread that listens to it."""

    def __init__(
        self, device: str, environment: Mapping[str, str], opening: bytes, events: queue.SimpleQueue[Any]
    ) -> None:
        self.device, self.is_ready = device, False
        self.attempt: Attempt | None = None
        """that it works on"""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115, which is closed with the process
        self._child = subprocess.Popen(
            # -P: it takes its path from us, not from the folder that it is started in
            [sys.executable, "-P", "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C comes to us alone, and is handed on exactly once
        )
        self._listener = threading.Thread(target=self._listen, args=(opening, events), daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def _listen(self, opening: bytes, events: queue.SimpleQueue[Any]) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(opening)
            self._child.stdin.flush()
            while True:
                events.put((self, *pickle.load(self._child.stdout)))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            events.put((self, DEAD, None))

    def send(self, what: Any) -> None:
        """A task, or END. Of a process that is dead already nothing is said: that is an event of its own."""
        assert self._child.stdin is not None
        with suppress(OSError, ValueError):
            self._child.stdin.write(pickle.dumps(what))
            self._child.stdin.flush()

    def last_words(self) -> str:
        """How it ended, and the last lines that it said."""
        code = self._child.wait()
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - WORDS_LENGTH))
        words = " ".join(self._words.read().decode(errors="replace").split())
        return f"{end_text(code)}{f': {words}' if words else ''}"

    def close(self) -> None:
        """Kill it, where it has not ended."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self._listener.join()
        for stream in (self._child.stdin, self._child.stdout, self._words):
            assert stream is not None
            with suppress(OSError):
                stream.close()


class Driver:
    """Hands out tasks."""

    def __init__(self, names: tuple[str, ...], quiet: Mapping[str, str], job: Job) -> None:
        self._ledger = Ledger(job, job.by_folder, job.plan(len(names)))
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._share = max(1, cpus() // len(names))
        self._names, self._quiet, self._job = names, quiet, job
        self._params = dict(job.model.params)
        self._alive: list[Process] = []

    def work(self) -> Iterator[Progress]:
        """Until the store shows all."""
        ledger = self._ledger
        share = f"{self._share} CPU{'' if self._share == 1 else 's'} each"
        LOG.info("%d processes, of %s: %s", len(self._names), share, ", ".join(self._names))
        for name in self._names:
            self._start(name)
        begun = False
        while ledger.queue or any(process.attempt for process in self._alive):
            # One that cannot begin is an error, however little there is to do for it.
            begun = begun or all(process.is_ready for process in self._alive)
            for process in self._alive:
                if begun and process.is_ready and process.attempt is None and ledger.queue:
                    process.attempt = ledger.queue.popleft()
                    process.send(process.attempt.task)
            before = ledger.samples
            for process, kind, value in self._heard():
                if process in self._alive:
                    self._take(process, kind, value)
            yield ledger.progress(before, sum(process.is_ready for process in self._alive))

    def _start(self, name: str) -> None:
        device, visible = seeing_one(name, os.environ)
        environment = for_child(self._quiet)
        environment |= visible
        environment |= kept_to(self._share, environment)
        self._alive.append(Process(name, environment, self._opening(device), self._events))

    def _opening(self, device: str) -> bytes:
        """What a process is sent first. SettingError for what cannot be sent."""
        job = self._job
        try:
            parcel = pickle.dumps(Parcel.of(job, job.by_folder.make, device))
        except Exception as error:
            raise SettingError(
                f"devices=: {job.model.name} and {job.data.name} cannot be sent to other processes "
                f"({type(error).__name__}: {error}); leave out devices=, or pass engine=hs.Ray(...), which sends "
                "code, too"
            ) from error
        return pickle.dumps((sys.path, parcel, self._params))

    def _heard(self) -> Iterator[Any]:
        """What processes have said, waited for a moment."""
        with suppress(queue.Empty):
            yield self._events.get(timeout=POLL_SECONDS)
            while True:
                yield self._events.get_nowait()

    def _take(self, process: Process, kind: str, value: Any) -> None:
        if kind == READY:
            process.is_ready = True
            LOG.debug("process %d computes on %s", process.pid, process.device)
        elif kind == WRONG:
            raise EngineError(f"on {process.device}: {value}")
        elif kind == DONE and process.attempt is not None:
            self._ledger.count(process.attempt, value)
        elif kind == OUTCOME:
            attempt, process.attempt = process.attempt, None
            assert attempt is not None
            self._ledger.settle(attempt, value, f"on {process.device}")
        elif kind == DEAD:
            self._replace(process)

    def _replace(self, process: Process) -> None:
        """Of one that has died."""
        words, attempt = process.last_words(), process.attempt
        self._alive.remove(process)
        process.close()
        if not process.is_ready:
            raise EngineError(f"on {process.device} no process starts: {words}")
        again = ""
        if attempt is not None:
            left, deaths = self._ledger.died(attempt)
            again = f"; {left:,} of its task's {len(attempt.task):,} samples are done again"
            if deaths >= DEATHS:
                raise EngineError(
                    f"{deaths} processes have died in the same task, the last on {process.device}: {words}"
                )
        LOG.warning("process %d on %s has died (%s)%s", process.pid, process.device, words, again)
        if self._ledger.queue:
            self._start(process.device)

    def leave(self) -> None:
        """End all processes, those in the middle of a task when they have stored what they have."""
        working = [process for process in self._alive if process.attempt is not None and process.is_ready]
        try:
            for process in working:
                process.send(END)
            end = time.monotonic() + END_SECONDS
            while working and (left := end - time.monotonic()) > 0:
                with suppress(queue.Empty):
                    process, kind, value = self._events.get(timeout=left)
                    if process in working and kind in (OUTCOME, DEAD):
                        working.remove(process)
                        if kind == OUTCOME:
                            self._ledger.bring(process.attempt.task, value)
        finally:
            for process in self._alive:
                process.close()
            self._alive = []


def seeing_one(name: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """How a process calls the device of this name when it sees no other card, and the variables for that. Other
    kinds than CUDA have no such variables, and keep their names."""
    kind, index = devices.parse(name)
    if kind == devices.CPU:
        return name, dict(NO_CARDS)
    if kind != "cuda":
        return name, {}
    numbers = [number.strip() for number in environment.get(VISIBLE, "").split(",") if number.strip()]
    if numbers and index >= len(numbers):
        return name, {}  # where it is an error in the framework's words
    return kind, {VISIBLE: numbers[index] if numbers else str(index)}
