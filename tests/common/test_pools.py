"""Generators with pools of threads, ended as the garbage collector may end them: in the middle of Python's own
start of a thread."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

pytestmark = [
    pytest.mark.neutral,
    pytest.mark.skipif(not hasattr(threading, "_shutdown_locks_lock"), reason="threads start without that lock"),
]
STARTS = """
import gc, threading, weakref
import numpy as np
from headstart.common.behind import Behind
from headstart.data import arrays
from headstart.data.loader import batches
from headstart.data.preprocess import Preprocess
from headstart.data.read_ahead import reading
from headstart.store.gather import _in_threads
from headstart.training.feature_feeds import Pools

data = arrays(np.zeros((64, 8, 8, 3), np.uint8), np.arange(64) % 2)

class Source:
    fetches = 2
    def read(self, index):
        return index
    def nbytes(self, index):
        return 1

def ahead():
    with reading(Source(), range(64)) as read:
        for n in range(64):
            yield read(n)

def rows(count):
    pools = Pools(4, (3,), np.dtype(np.float32))
    return pools.read([np.arange(4)] * count, lambda positions, out, restore: None)

def written():
    with Behind(2, "writer") as behind:
        while True:
            behind(int)
            yield

generators = {
    "writer": written(),
    "loader": batches(data, Preprocess(8, 8), np.arange(64), 4, workers=2),
    "shards": _in_threads(lambda part: part, range(64)),
    "features": rows(9),
    "ahead": ahead(),
}
gc.disable()
for name in list(generators):
    generator = generators.pop(name)
    next(generator)
    ended = weakref.ref(generator)
    cycle = [generator]
    cycle.append(cycle)
    del generator, cycle
    with threading._shutdown_locks_lock:  # as in the start of a thread
        gc.collect()
    assert ended() is None
    print(name, flush=True)
"""


def test_one_that_is_collected_waits_for_no_thread() -> None:
    done = subprocess.run([sys.executable, "-c", STARTS], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["writer", "loader", "shards", "features", "ahead"]
