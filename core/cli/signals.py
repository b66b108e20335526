"""What asks a command to end beside Ctrl-C: SIGTERM, of `kill`, schedulers and containers, and SIGHUP, of a
terminal that is closed. They end it as Ctrl-C does, so that finished features are kept and the processes that it
has started end, too; by default they would end this process alone, at once.

Invariant: the exit code is 128 and the signal's number, as a shell has it. A signal that is ignored, as `nohup`
has SIGHUP ignored, or heeded by somebody else already, stays so.
"""

from __future__ import annotations

import os
import signal
import threading

SIGNALS = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
_came: list[int] = []


def heed() -> None:
    """From now on, in this process and in none that it forks."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python lets no other one
    heeded = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in heeded:
        signal.signal(number, _end)
    if heeded and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def exit_code() -> int:
    """Of a command that was interrupted."""
    return 128 + (_came[0] if _came else signal.SIGINT)


def _end(number: int, _: object) -> None:
    """Interrupts what is done; a second time, in what does not end by that, ends the process."""
    if _came:
        os._exit(exit_code())
    _came.append(number)
    raise KeyboardInterrupt


def _forget() -> None:
    """In a process that was forked: workers are ended by SIGTERM, and have nothing to say of it."""
    for number in SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
