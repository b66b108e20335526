"""Whether a file system's time of change (ctime) is one: some pass off the time of modification for it, or one
that never moves, and then an edit of the same length with its time put back shows in nothing that stat tells.

Invariant: a file whose two times are equal, as a plain file's are on any file system, is believed only where ctime
was seen to be another time: of another file there, or of an empty file that is made for that and removed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Sequence

_PROBE = ".headstart-probe-"
_TICK_SECONDS = 0.002
_TICKS = 50  # more than the coarsest clock that is believed needs to go on
_DAY_NS = 86_400_000_000_000

_lock = threading.Lock()
_moves: dict[int, bool] = {}  # device -> whether a ctime there moved when a file was changed


def believed(paths: Sequence[str], stamps: Sequence[tuple[int, int] | None]) -> list[bool]:
    """For each file whether its ctime says when it was changed last; `stamps` are mtime and ctime in ns, None for
    a file that is not believed anyhow. Takes a look at each folder, and at most one probe a file system."""
    devices: dict[str, int | None] = {}

    def device(path: str) -> int | None:
        folder = os.path.dirname(path)  # noqa: PTH120 - a million times
        if folder not in devices:
            try:
                devices[folder] = os.stat(folder or os.curdir).st_dev  # noqa: PTH116
            except OSError:
                devices[folder] = None
        return devices[folder]

    # ctime before mtime: a time that does not move with every change; or a file dated ahead.
    result = [stamp is not None and stamp[0] <= stamp[1] for stamp in stamps]
    equal = [i for i, stamp in enumerate(stamps) if stamp is not None and stamp[0] == stamp[1]]
    if not equal:
        return result
    seen = {device(path) for path, stamp in zip(paths, stamps, strict=True) if stamp and stamp[0] < stamp[1]}
    for i in equal:
        number = device(paths[i])
        result[i] = number in seen or (number is not None and _probed(number, paths[i]))
    return result


def _probed(device: int, path: str) -> bool:
    with _lock:
        if device not in _moves:
            _moves[device] = _moves_in(os.path.dirname(path) or os.curdir)  # noqa: PTH120
        return _moves[device]


def _moves_in(folder: str) -> bool:
    """Whether ctime moves there although the time of modification is put back; no where nothing can be written."""
    probe = os.path.join(folder, f"{_PROBE}{uuid.uuid4().hex}")  # noqa: PTH118
    try:
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            before = os.stat(probe).st_ctime_ns  # noqa: PTH116
            for _ in range(_TICKS):
                time.sleep(_TICK_SECONDS)
                os.utime(probe, ns=(before - _DAY_NS,) * 2)
                if os.stat(probe).st_ctime_ns > before:  # noqa: PTH116
                    return True
            return False
        finally:
            os.close(handle)
            with contextlib.suppress(OSError):
                os.unlink(probe)  # noqa: PTH108
    except OSError:
        return False
