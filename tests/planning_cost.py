"""What it costs to cut many ids into tasks, in a process of its own: tests of one size and of another use it."""

from __future__ import annotations

import json
import subprocess
import sys

PLANNING = """
import json, re, time
import numpy as np
from headstart.features.engines.planning import tasks_of
from headstart.store.ids import array_to_ids
ids = array_to_ids(np.frombuffer(np.random.default_rng(0).bytes(16 * COUNT), np.uint8).reshape(COUNT, 16))
start = time.process_time()
tasks = tasks_of([{"avgpool": ids, "layer4": ids}], 65_536)
assert sum(map(len, tasks)) == COUNT and len(tasks) == -(-COUNT // 65_536)
seconds = time.process_time() - start
most = re.search("VmHWM:\\\\s*([0-9]+) kB", open("/proc/self/status").read())  # not of who began it
print(json.dumps([seconds, int(most[1]) / 2**20]))
"""


def cost_of_planning(count: int) -> tuple[float, float]:
    """(seconds of the CPU, GiB at most) for so many ids, which lack features at two nodes."""
    code = PLANNING.replace("COUNT", str(count))
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    seconds, gigabytes = json.loads(said)
    return seconds, gigabytes
