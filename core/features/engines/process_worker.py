"""A process that extracts on one device of this machine: `python -m headstart.features.engines.process_worker`.

It is told on its standard input what to extract, then tasks, and answers on its standard output; both are pickled,
between two processes of one user.

Invariant: it ends when its driver does; what it has computed until then is stored.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

READY, WRONG, DONE, OUTCOME, DEAD = "ready", "wrong", "done", "outcome", "dead"
"""what is told of a process: it has begun, on which device; it cannot begin, and why; so many samples of the task
are done; what became of the task (`Outcome`); it is no more"""
END = "end"
"""in the place of a task: store what is computed, and end"""


def main() -> None:
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what a framework prints is no answer
    lock, ended = threading.Lock(), threading.Event()

    def answer(kind: str, value: Any) -> None:
        with lock, suppress(BrokenPipeError):
            answers.write(pickle.dumps((kind, value)))
            answers.flush()

    path, parcel, params = pickle.load(questions)
    sys.path[:] = path
    try:
        from headstart.features.engines.worker import TaskWorker

        worker = TaskWorker(parcel, params, f"process {os.getpid()}", ended.is_set)
    except Exception as error:
        text = str(error).strip() or traceback.format_exc().strip().splitlines()[-1]
        kind = "" if type(error).__module__.startswith("headstart.") else f"{type(error).__name__}: "
        answer(WRONG, kind + text.splitlines()[0])
        return
    answer(READY, worker.device)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        task: Any = None
        while task != END:
            try:
                task = pickle.load(questions)
            except (EOFError, OSError, pickle.UnpicklingError):  # the driver is gone
                task = END
            if isinstance(task, str):
                ended.set()
            tasks.put(task)

    threading.Thread(target=listen, daemon=True).start()
    while (task := tasks.get()) != END:
        for said in worker.work(task):
            answer(DONE if isinstance(said, int) else OUTCOME, said)


if __name__ == "__main__":
    main()
